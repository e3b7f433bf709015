#include "daemon/device/cuda/context.h"

#include <spdlog/spdlog.h>

#include <utility>

namespace ckptd::device::cuda {

Result<std::shared_ptr<Context>> Context::retain(std::shared_ptr<const Driver> driver, CUdevice device, int ordinal,
                                                 std::string name) {
  std::shared_ptr<Context> context(new Context(std::move(driver), device, ordinal, std::move(name)));
  CUcontext native = nullptr;
  const auto code = context->driver().functions().primary_ctx_retain(&native, device);
  if (code != CUDA_SUCCESS) {
    auto error = context->driver().error(code, fmt::format("{}: retain its primary context", context->name_));
    if (code == CUDA_ERROR_OUT_OF_MEMORY)
      error.sentence += "; a context takes some hundred MB of the GPU's memory, which an engine has taken whole: leave it "
                        "some, or leave this GPU out of [cuda] devices";
    return std::unexpected(std::move(error));
  }
  context->native_ = native;
  return context;
}

Context::~Context() {
  if (native_ != nullptr && !fenced()) driver_->functions().primary_ctx_release(device_);
}

Result<> Context::usable() const {
  if (!fenced()) return {};
  std::lock_guard lock(mutex_);
  return std::unexpected(loss_->error);
}

std::optional<Loss> Context::loss() const {
  if (!fenced()) return {};
  std::lock_guard lock(mutex_);
  return loss_;
}

void Context::fence(Error first) {
  std::lock_guard lock(mutex_);
  if (loss_) return;
  spdlog::error("{}", first.sentence);
  loss_ = Loss{std::chrono::system_clock::now(), std::move(first)};
  fenced_.store(true, std::memory_order_release);
}

Result<> Context::check(CUresult code, std::string_view what) {
  if (code == CUDA_SUCCESS) return {};
  auto error = driver_->error(code, fmt::format("{}: {}", name_, what));
  if (!driver_->describe(code).fences) return std::unexpected(std::move(error));
  error.sentence += fmt::format(
      ". {} is not used any more until ckptd is restarted: look for Xid messages of the driver in the kernel log, reset the "
      "GPU if they come again (nvidia-smi --gpu-reset), then restart ckptd",
      name_);
  fence(std::move(error));
  return usable();
}

void Context::leave() {
  CUcontext popped = nullptr;
  driver_->functions().ctx_pop_current(&popped);
}

Result<NativeEvent> NativeEvent::create(std::shared_ptr<Context> context, unsigned flags) {
  CUevent event = nullptr;
  CKPTD_TRY(context->call("create an event", &Functions::event_create, &event, flags));
  return NativeEvent(std::move(context), event);
}

NativeEvent::NativeEvent(NativeEvent&& other) noexcept
    : context_(std::move(other.context_)), event_(std::exchange(other.event_, nullptr)) {}

NativeEvent& NativeEvent::operator=(NativeEvent&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(event_, other.event_);
  return *this;
}

NativeEvent::~NativeEvent() {
  if (event_ != nullptr && !context_->fenced()) context_->make(&Functions::event_destroy, event_);
}

}  // namespace ckptd::device::cuda
