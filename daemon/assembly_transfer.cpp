#include "daemon/assembly_transfer.h"

#include <spdlog/spdlog.h>

#include <utility>
#include <vector>

#include "common/process.h"
#include "common/units.h"
#include "daemon/fleet/caller.h"
#include "daemon/ranks/vllm_ipc/transfer.h"
#ifdef CKPTD_HAVE_CUDA
#include "daemon/assembly_natives.h"
#include "daemon/ranks/vllm_nccl/transfer.h"
#endif

namespace ckptd {
namespace {

/// Those of an engine's processes that have a GPU open, as far as they can be seen: who may map what its workers are told
/// of. None when the listener is a proxy, or the workers are Ray's and descend from nobody that we know.
std::vector<ranks::Peer> gpu_processes(const std::optional<ProcessId>& listener) {
  std::vector<ranks::Peer> found;
  if (!listener) return found;
  for (const auto& process : with_descendants(*listener))
    if (has_open(process, "/dev/nvidia")) found.push_back({.pid = process.pid, .uid = 0, .started = process.started});
  return found;
}

ranks::vllm::Send sender(std::shared_ptr<fleet::Caller> caller) {
  return [caller = std::move(caller)](std::string_view method, std::string_view target, std::string body,
                                      Deadline deadline, std::stop_token stop) -> Result<ranks::vllm::Reply> {
    auto answer = CKPTD_TRY(caller->ask({.method = std::string(method), .target = std::string(target), .body = std::move(body)},
                                        fleet::Guard::admin, deadline, std::move(stop), 64 * kMiB));
    return ranks::vllm::Reply{answer.status, std::move(answer.body), answer.sent};
  };
}

#ifdef CKPTD_HAVE_CUDA
namespace nccl = collective::nccl;

std::shared_ptr<ranks::vllm_nccl::Links> make_links(const config::Config& config) {
  const auto open_library = [config]() -> Result<std::shared_ptr<const nccl::Library>> {
    if (config.device == config::DeviceKind::host)
      return fail(ErrorKind::unsupported, "NCCL sends from GPUs: set [device] kind (--device) to cuda");
    auto library = CKPTD_TRY(nccl::Library::open(config.nccl_library));
    spdlog::info("NCCL {} sends to servers that take weights by it ({})", nccl::show_version(library->version()),
                 library->name());
    return library;
  };
  return std::make_shared<ranks::vllm_nccl::Links>(
      open_library, natives_of_cuda(),
      nccl::Patience{.start = config.nccl_start_timeout, .drain = config.spread_grace, .stuck = config.spread_grace});
}
#endif

class ByConfig final : public Transfers {
 public:
  ByConfig(const config::Config& config, std::shared_ptr<ranks::Receipts> receipts)
      : connect_(config.engine_connect_timeout), receipts_(std::move(receipts)) {
#ifdef CKPTD_HAVE_CUDA
    links_ = make_links(config);
#endif
  }

  Result<std::unique_ptr<ranks::Transfer>> make(const journal::EngineRecord& engine, std::string weight_version,
                                                const std::string& way) override {
    if (engine.kind != "vllm")
      return fail(ErrorKind::unsupported, "engines of kind {} have no weight transfer of their own", engine.kind);
    const auto caller = std::make_shared<fleet::Caller>(CKPTD_TRY(address_of(engine, connect_)));
    if (way == "nccl") return make_nccl(engine, std::move(weight_version), caller);
    return ranks::vllm_ipc::make_transfer({.engine = engine.name,
                                           .weight_version = std::move(weight_version),
                                           .processes = gpu_processes(caller->listener())},
                                          sender(caller), receipts_);
  }

#ifdef CKPTD_HAVE_CUDA
  std::size_t drop_idle() noexcept override { return links_->drop_idle(); }
  void close(Deadline by) noexcept override { links_->close(by); }
#else
  std::size_t drop_idle() noexcept override { return 0; }
  void close(Deadline) noexcept override {}
#endif

 private:
  Result<std::unique_ptr<ranks::Transfer>> make_nccl(const journal::EngineRecord& engine,
                                                     [[maybe_unused]] std::string weight_version,
                                                     [[maybe_unused]] const std::shared_ptr<fleet::Caller>& caller) {
    const auto about = [&](const Error& error) {
      return std::unexpected(error.within(
          fmt::format("engine {} was started to be given weights by NCCL, which this daemon cannot", engine.name)));
    };
#ifdef CKPTD_HAVE_CUDA
    if (auto usable = links_->check_usable(); !usable) return about(usable.error());
    return ranks::vllm_nccl::make_transfer({.engine = engine.name,
                                            .weight_version = std::move(weight_version),
                                            .server = caller->listener()},
                                           sender(caller), links_);
#else
    return about(Error{ErrorKind::unsupported, "this build has no CUDA"});
#endif
  }

  const std::chrono::milliseconds connect_;
  const std::shared_ptr<ranks::Receipts> receipts_;
#ifdef CKPTD_HAVE_CUDA
  std::shared_ptr<ranks::vllm_nccl::Links> links_;
#endif
};

}  // namespace

Result<fleet::Address> address_of(const journal::EngineRecord& engine, std::chrono::milliseconds connect) {
  auto endpoint = CKPTD_TRY(http::Endpoint::parse(engine.endpoint));
  return fleet::Address{engine.name,         engine.kind,           std::move(endpoint),
                        engine.api_key_file, engine.admin_key_file, connect};
}

std::unique_ptr<Transfers> Transfers::create(const config::Config& config, std::shared_ptr<ranks::Receipts> receipts) {
  return std::make_unique<ByConfig>(config, std::move(receipts));
}

}  // namespace ckptd
