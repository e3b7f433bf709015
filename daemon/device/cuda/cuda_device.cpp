#include "daemon/device/cuda/cuda_device.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "daemon/device/cuda/context.h"
#include "daemon/device/cuda/driver.h"
#include "daemon/device/cuda/enumerate.h"
#include "daemon/device/cuda/memory.h"
#include "daemon/device/cuda/native.h"
#include "daemon/device/cuda/registrations.h"
#include "daemon/device/cuda/stream.h"
#include "daemon/device/cuda/watcher.h"

namespace ckptd::device::cuda {
namespace {

class CudaDevice final : public Device {
 public:
  CudaDevice(Identity identity, std::shared_ptr<Context> context, std::shared_ptr<Watcher> watcher,
             std::shared_ptr<Exports> exports, std::shared_ptr<Registrations> registrations)
      : identity_(std::move(identity)),
        context_(std::move(context)),
        watcher_(std::move(watcher)),
        exports_(std::move(exports)),
        registrations_(std::move(registrations)) {}

  const Identity& identity() const override { return identity_; }
  std::optional<Loss> lost() const override { return context_->loss(); }

  Result<std::unique_ptr<Allocation>> allocate(std::uint64_t bytes) override {
    return allocate_memory(bytes, context_, exports_);
  }

  Result<std::unique_ptr<Allocation>> open(const Export& exported) override {
    if (const auto* cuda = std::get_if<CudaExport>(&exported)) return open_memory(*cuda, context_, exports_);
    return fail(ErrorKind::unsupported, "{}: only memory of CUDA devices can be opened here", identity_.uuid);
  }

  Result<std::unique_ptr<Stream>> make_stream() override {
    return CudaStream::create(context_, watcher_, registrations_);
  }

  Result<std::unique_ptr<Event>> make_event() override { return CudaEvent::create(context_); }

  Result<std::unique_ptr<HostRegistration>> register_host(std::span<std::byte> memory) override {
    return registrations_->add(memory, context_);
  }

  Result<std::uint64_t> free_bytes() const override {
    std::size_t free_bytes = 0, total_bytes = 0;
    CKPTD_TRY(context_->call("ask for free memory", &Functions::mem_get_info, &free_bytes, &total_bytes));
    return free_bytes;
  }

  const std::shared_ptr<Context>& context() const { return context_; }

 private:
  const Identity identity_;
  const std::shared_ptr<Context> context_;
  const std::shared_ptr<Watcher> watcher_;
  const std::shared_ptr<Exports> exports_;
  const std::shared_ptr<Registrations> registrations_;
};

/// So that copies between two GPUs go straight; where that cannot be the driver takes them through the host. What one
/// GPU refuses another is told once and is no reason not to start.
void enable_peer_access(const std::vector<std::shared_ptr<Context>>& contexts) {
  for (const auto& from : contexts)
    for (const auto& to : contexts) {
      if (from == to) continue;
      int possible = 0;
      const auto asked = from->driver().functions().device_can_access_peer(&possible, from->device(), to->device());
      if (asked != CUDA_SUCCESS || possible == 0) {
        spdlog::info("{} has no direct way to {}: copies between them go through host memory", from->name(), to->name());
        continue;
      }
      const auto code = from->make(&Functions::ctx_enable_peer_access, to->native(), 0U);
      if (code != CUDA_SUCCESS && code != CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
        spdlog::warn("{}: no direct access to {}: {}", from->name(), to->name(), from->driver().describe(code).vendor);
    }
}

const CudaDevice* ours(const Device& device) { return dynamic_cast<const CudaDevice*>(&device); }

Result<std::shared_ptr<Context>> context_of(const Device& device) {
  if (const auto* cuda = ours(device)) return cuda->context();
  return fail(ErrorKind::invalid_argument, "{} is no CUDA device", device.identity().uuid);
}

}  // namespace

Result<std::vector<std::unique_ptr<Device>>> make_cuda_devices(const Options& options) {
  auto driver = CKPTD_TRY(Driver::open(options.library));
  auto shown = CKPTD_TRY(enumerate(*driver, options.system_root));
  const auto gpus = CKPTD_TRY(choose(std::move(shown), options.devices));
  auto exports = std::make_shared<Exports>();
  auto registrations = std::make_shared<Registrations>();
  std::vector<std::shared_ptr<Context>> contexts;
  std::vector<std::unique_ptr<Device>> devices;
  for (const auto& gpu : gpus) {
    auto context = CKPTD_TRY(Context::retain(driver, gpu.device, gpu.ordinal, gpu.uuid));
    auto watcher = CKPTD_TRY(Watcher::start(context));
    spdlog::info("{} is a {}, NUMA node {}, driver of CUDA {}.{}", gpu.uuid, gpu.model,
                 gpu.numa_node < 0 ? "unknown" : std::to_string(gpu.numa_node), driver->version() / 1000,
                 driver->version() % 1000 / 10);
    devices.push_back(std::make_unique<CudaDevice>(
        Identity{.kind = "cuda", .uuid = gpu.uuid, .numa_node = gpu.numa_node}, context, watcher, exports, registrations));
    contexts.push_back(std::move(context));
  }
  enable_peer_access(contexts);
  return devices;
}

CUstream native_stream(Stream& stream) {
  const auto* cuda = dynamic_cast<const CudaStream*>(&stream);
  return cuda != nullptr ? cuda->native() : nullptr;
}

CUcontext native_context(const Device& device) {
  const auto* cuda = ours(device);
  return cuda != nullptr ? cuda->context()->native() : nullptr;
}

int native_ordinal(const Device& device) {
  const auto* cuda = ours(device);
  return cuda != nullptr ? cuda->context()->ordinal() : -1;
}

Result<> native_usable(const Device& device) {
  const auto context = CKPTD_TRY(context_of(device));
  return context->usable();
}

Result<> check_native(const Device& device, CUresult code, std::string_view what) {
  const auto context = CKPTD_TRY(context_of(device));
  CKPTD_TRY(context->usable());
  return context->check(code, what);
}

void fence_native(const Device& device, Error why) {
  if (const auto context = context_of(device)) (*context)->fence(std::move(why));
}

Result<CurrentContext> CurrentContext::of(const Device& device) {
  auto context = CKPTD_TRY(context_of(device));
  CKPTD_TRY(context->usable());
  CKPTD_TRY(context->check(context->enter(), "make its context current"));
  return CurrentContext(std::move(context));
}

CurrentContext::~CurrentContext() {
  if (context_) context_->leave();
}

}  // namespace ckptd::device::cuda
