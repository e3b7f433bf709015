// The links that there are: lent to an update, or kept for the next one of the same server.
//
// Making a link takes NCCL seconds and both sides memory of their GPUs, so it lives as long as the server's process. Which
// process that is has to be known: one that we cannot see, on another node, may have been started anew, and is joined
// anew for each update. Safe from any thread.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/process.h"
#include "daemon/ranks/vllm_nccl/link.h"

namespace ckptd::ranks::vllm_nccl {

class Links {
 public:
  using OpenLibrary = std::function<Result<std::shared_ptr<const collective::nccl::Library>>()>;

  Links(OpenLibrary open_library, collective::nccl::Natives natives, collective::nccl::Patience patience);
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;
  /// Ends what is kept.
  ~Links();

  /// Opens the library if it is not open yet. unavailable or unsupported, with what to do.
  Result<> check_usable();

  Result<std::shared_ptr<Link>> make(device::Device& device, unsigned workers);
  /// The one that was kept for this server, if it fits and is well; else null, and what was kept for the engine has ended.
  std::shared_ptr<Link> take(const std::string& engine, const std::optional<ProcessId>& server, device::Device& device,
                             unsigned workers);
  /// After an update that went well.
  void keep(const std::string& engine, const std::optional<ProcessId>& server, std::shared_ptr<Link> link);

  /// Ends those that are kept, and with them their memory of the GPUs; how many.
  std::size_t drop_idle() noexcept;
  /// Makes no more, and ends those that there are by then.
  void close(Deadline by) noexcept;

 private:
  struct Kept {
    ProcessId server;
    std::shared_ptr<Link> link;
  };

  const OpenLibrary open_library_;
  const collective::nccl::Natives natives_;
  const collective::nccl::Patience patience_;

  std::mutex mutex_;  ///< guards what follows; never held while a link ends
  std::shared_ptr<const collective::nccl::Library> library_;
  std::map<std::string, Kept> kept_;  ///< by engine
  std::vector<std::weak_ptr<Link>> all_;
  bool closed_ = false;
};

}  // namespace ckptd::ranks::vllm_nccl
