// The primary context of one GPU: every call of the driver for that GPU goes through here.
//
// A call is made with the context current and leaves the thread as it was. The first code after which the context is
// lost fences it: from then on nothing of this GPU is handed to the driver any more, and every call answers with that
// first error. Nothing short of a new process mends such a context, and calls into it may block. What the driver holds
// for a fenced GPU stays until the process ends. Safe from any thread.
#pragma once

#include <cuda.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "daemon/device/cuda/driver.h"
#include "daemon/device/device.h"

namespace ckptd::device::cuda {

class Context {
 public:
  /// Retains the primary context, which takes some hundred MB of the GPU's memory until it is destroyed. `name` is the
  /// GPU's, for messages.
  static Result<std::shared_ptr<Context>> retain(std::shared_ptr<const Driver> driver, CUdevice device, int ordinal,
                                                 std::string name);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();

  const std::string& name() const { return name_; }
  const Driver& driver() const { return *driver_; }
  CUcontext native() const { return native_; }
  CUdevice device() const { return device_; }
  int ordinal() const { return ordinal_; }

  bool fenced() const noexcept { return fenced_.load(std::memory_order_acquire); }
  /// The error that fenced it.
  Result<> usable() const;
  std::optional<Loss> loss() const;
  void fence(Error first);

  /// Makes a call with the context current: call("allocate", &Functions::mem_alloc, &pointer, bytes). `what` is what is
  /// tried, for messages.
  template <class Function, class... Arguments>
  Result<> call(std::string_view what, Function Functions::*function, Arguments... arguments) {
    if (fenced()) return usable();
    return check(make(function, arguments...), what);
  }

  /// The same for a caller to whom not every code is an error; check() the others. Not to be called when fenced.
  template <class Function, class... Arguments>
  CUresult make(Function Functions::*function, Arguments... arguments) {
    if (const CUresult entered = enter(); entered != CUDA_SUCCESS) return entered;
    const CUresult code = (driver_->functions().*function)(arguments...);
    leave();
    return code;
  }

  Result<> check(CUresult code, std::string_view what);

  CUresult enter() { return driver_->functions().ctx_push_current(native_); }
  void leave();

 private:
  Context(std::shared_ptr<const Driver> driver, CUdevice device, int ordinal, std::string name)
      : driver_(std::move(driver)), device_(device), ordinal_(ordinal), name_(std::move(name)) {}

  const std::shared_ptr<const Driver> driver_;
  const CUdevice device_;
  const int ordinal_;
  const std::string name_;
  CUcontext native_ = nullptr;

  std::atomic<bool> fenced_ = false;
  mutable std::mutex mutex_;
  std::optional<Loss> loss_;  // set before fenced_
};

/// An event of the driver, destroyed with this unless its context is fenced.
class NativeEvent {
 public:
  static Result<NativeEvent> create(std::shared_ptr<Context> context, unsigned flags);
  NativeEvent(NativeEvent&& other) noexcept;
  NativeEvent& operator=(NativeEvent&& other) noexcept;
  ~NativeEvent();

  CUevent get() const { return event_; }
  Context& context() const { return *context_; }

 private:
  NativeEvent(std::shared_ptr<Context> context, CUevent event) : context_(std::move(context)), event_(event) {}
  std::shared_ptr<Context> context_;
  CUevent event_ = nullptr;
};

}  // namespace ckptd::device::cuda
