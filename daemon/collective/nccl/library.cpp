#include "daemon/collective/nccl/library.h"

#include <dlfcn.h>

namespace ckptd::collective::nccl {
namespace {

constexpr const char* kDefaultLibrary = "libnccl.so.2";
constexpr const char* kOrElse = "or set [collective] backend to local";

ErrorKind kind_of(Code code) {
  switch (code) {
    case Code::unhandled_cuda_error: return ErrorKind::unavailable;
    case Code::system_error: return ErrorKind::io;
    case Code::remote_error: return ErrorKind::peer_failed;
    case Code::timeout: return ErrorKind::timed_out;
    default: return ErrorKind::internal;
  }
}

}  // namespace

std::string show_version(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

Result<std::shared_ptr<const Library>> Library::open(const std::filesystem::path& path) {
  std::shared_ptr<Library> library(new Library);
  library->name_ = path.empty() ? kDefaultLibrary : path.string();
  void* handle = ::dlopen(library->name_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    return std::unexpected(
        Error{ErrorKind::unavailable,
              fmt::format("NCCL's library {} cannot be opened: install NCCL, name the one of an engine's Python "
                          "environment (.../site-packages/nvidia/nccl/lib/libnccl.so.2) in [nccl] library, {}",
                          library->name_, kOrElse)}
            .with_vendor(reason != nullptr ? reason : ""));
  }
  CKPTD_TRY(library->load(handle));
  CKPTD_TRY(library->check_version());
  return library;
}

Result<> Library::load(void* library) {
  std::string missing;
  const auto need = [&](const char* symbol, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
    if (function == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(symbol);
  };
  auto& f = functions_;
  need("ncclGetVersion", f.get_version);
  need("ncclGetUniqueId", f.get_unique_id);
  need("ncclCommInitRankConfig", f.comm_init_rank_config);
  need("ncclCommFinalize", f.comm_finalize);
  need("ncclCommDestroy", f.comm_destroy);
  need("ncclCommAbort", f.comm_abort);
  need("ncclCommGetAsyncError", f.comm_get_async_error);
  need("ncclBroadcast", f.broadcast);
  need("ncclAllReduce", f.all_reduce);
  need("ncclGroupStart", f.group_start);
  need("ncclGroupEnd", f.group_end);
  need("ncclGetErrorString", f.get_error_string);
  need("ncclGetLastError", f.get_last_error);
  if (missing.empty()) return {};
  return fail(ErrorKind::unsupported,
              "{} lacks {}: it is no NCCL, or older than {}; name another in [nccl] library, {}", name_, missing,
              show_version(kOldestVersion), kOrElse);
}

Result<> Library::check_version() {
  if (const auto code = functions_.get_version(&version_); code != Code::success)
    return std::unexpected(error(code, fmt::format("ask {} for its version", name_)));
  if (version_ >= kOldestVersion) return {};
  return fail(ErrorKind::unsupported, "{} is NCCL {}, ckptd needs {} or later: name another in [nccl] library, {}",
              name_, show_version(version_), show_version(kOldestVersion), kOrElse);
}

Error Library::error(Code code, std::string_view what) const {
  const char* text = functions_.get_error_string(code);
  const char* last = functions_.get_last_error(nullptr);
  auto vendor = fmt::format("{} ({})", text != nullptr ? text : "an error without a name", static_cast<int>(code));
  if (last != nullptr && *last != '\0') vendor += fmt::format(", last message: {}", last);
  return Error{
      kind_of(code),
      fmt::format("{} failed: {}; NCCL_DEBUG=INFO in the daemon's environment makes NCCL say more", what, vendor)}
      .with_vendor(std::move(vendor));
}

}  // namespace ckptd::collective::nccl
