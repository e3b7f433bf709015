// NCCL as a table of functions, opened at run time.
//
// Nothing of NCCL is linked or needed to build: a machine without it runs the same program. One process may have only
// one, and the one that an engine's Python environment brings will do (site-packages/nvidia/nccl/lib/libnccl.so.2).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"
#include "daemon/collective/nccl/api.h"

namespace ckptd::collective::nccl {

/// From here on several GPUs of one process may be aborted and destroyed within one group call, and must be: an abort
/// of one communicator after the other can wait for ever (NVIDIA/nccl#1013). Non-blocking communicators came with 2.14.
inline constexpr int kOldestVersion = version_code(2, 22, 3);

class Library {
 public:
  /// `path` is libnccl.so.2 if empty, which the dynamic linker then looks for. unavailable if it is not there,
  /// unsupported if it lacks a function or is too old. It stays open for the life of the process, because its threads
  /// do.
  static Result<std::shared_ptr<const Library>> open(const std::filesystem::path& path = {});

  const Functions& functions() const { return functions_; }
  int version() const { return version_; }
  const std::string& name() const { return name_; }

  /// A code as an error: "WHAT failed", what NCCL says of it and where more can be read. `what` is what was tried.
  Error error(Code code, std::string_view what) const;

 private:
  Library() = default;
  Result<> load(void* library);
  Result<> check_version();

  Functions functions_;
  std::string name_;
  int version_ = 0;
};

/// "2.22.3" of 22203.
std::string show_version(int version);

}  // namespace ckptd::collective::nccl
