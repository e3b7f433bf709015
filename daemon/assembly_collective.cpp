#include "daemon/assembly_collective.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "daemon/collective/local/local_group.h"
#ifdef CKPTD_HAVE_CUDA
#include "daemon/assembly_natives.h"
#include "daemon/collective/nccl/nccl_group.h"
#endif

namespace ckptd {
namespace {

using Members = std::vector<std::unique_ptr<collective::Member>>;

class Local final : public Collective {
 public:
  explicit Local(std::chrono::milliseconds grace) : grace_(grace) {}
  Result<Members> make_group(const std::vector<device::Device*>& devices, const std::vector<std::string>& names,
                             std::stop_token) override {
    return collective::local::make_group_with(grace_, devices, names);
  }

 private:
  const std::chrono::milliseconds grace_;
};

#ifdef CKPTD_HAVE_CUDA
namespace nccl = collective::nccl;

class Nccl final : public Collective {
 public:
  Nccl(std::shared_ptr<const nccl::Library> library, const config::Config& config)
      : groups_(std::move(library), natives_of_cuda(),
                {.start = config.nccl_start_timeout, .drain = config.spread_grace, .stuck = config.spread_grace}) {}

  Result<Members> make_group(const std::vector<device::Device*>& devices, const std::vector<std::string>& names,
                             std::stop_token stop) override {
    return groups_.make_group(devices, names, std::move(stop));
  }
  std::size_t drop_idle() noexcept override { return groups_.drop_idle(); }
  void close(Deadline by) noexcept override { groups_.close(by); }

 private:
  nccl::Groups groups_;
};
#endif

/// unsupported if the devices are none that NCCL can use.
Result<std::unique_ptr<Collective>> make_nccl([[maybe_unused]] const config::Config& config,
                                              const std::vector<device::Device*>& devices) {
#ifdef CKPTD_HAVE_CUDA
  if (std::ranges::all_of(devices, [](const auto* device) { return device->identity().kind == "cuda"; })) {
    auto library = CKPTD_TRY(nccl::Library::open(config.nccl_library));
    spdlog::info("NCCL {} spreads buckets between GPUs ({})", nccl::show_version(library->version()), library->name());
    return std::make_unique<Nccl>(std::move(library), config);
  }
#endif
  return fail(ErrorKind::unsupported,
              "NCCL spreads between CUDA devices, and {} is none: set [device] kind (--device) to cuda, or [collective] "
              "backend to local",
              devices.empty() ? "nothing" : devices.front()->identity().uuid);
}

}  // namespace

Result<std::unique_ptr<Collective>> Collective::choose(const config::Config& config,
                                                       const std::vector<device::Device*>& devices) {
  auto local = std::make_unique<Local>(config.spread_grace);
  if (config.collective == config::Backend::local) return local;
  const bool automatic = config.collective == config::Backend::automatic;
  if (automatic && devices.size() < 2) return local;  // nothing to spread to
  auto made = make_nccl(config, devices);
  if (made) return made;
  if (!automatic) return std::unexpected(made.error().within("[collective] backend"));
  spdlog::info("collective auto means local: {}{}", made.error().sentence,
               made.error().vendor.empty() ? "" : " (" + made.error().vendor + ")");
  return local;
}

}  // namespace ckptd
