// Streams and events of CUDA devices.
//
// An error of queued work is never of one stream: it loses the context, and with it every stream of the GPU
// (context.h). What a stream can have for itself is a GPU that it depends on: after waiting for an event of another
// GPU that was lost since, its own work may have started too early, or never, so it counts as failed too.
//
// The contract's waits have deadlines and the driver's have none: here waiting is asking, with short sleeps between.
#pragma once

#include <cuda.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "daemon/device/cuda/context.h"
#include "daemon/device/cuda/registrations.h"
#include "daemon/device/cuda/watcher.h"
#include "daemon/device/device.h"

namespace ckptd::device::cuda {

/// What a stream shares with its events and the watcher; outlives it in the events. Safe from any thread.
class StreamState {
 public:
  static Result<std::shared_ptr<StreamState>> create(std::shared_ptr<Context> context);
  StreamState(const StreamState&) = delete;
  StreamState& operator=(const StreamState&) = delete;
  /// Gives the driver its stream back, whose work must be done or failed.
  ~StreamState();

  CUstream native() const { return native_; }
  const std::shared_ptr<Context>& context() const { return context_; }

  /// From now on the other stream's GPU, and those that it depends on, are needed here too.
  void depend_on(const StreamState& other);
  /// The error of the first GPU lost among those that are needed here.
  Result<> usable() const;

  bool is_done_or_failed(const NativeEvent& event) const;
  /// Until the event is reached, something failed (its error), or the deadline (timed_out).
  Result<> wait(const NativeEvent& event, Deadline deadline) const;
  /// The same for all that is queued.
  Result<> wait_for_all(Deadline deadline) const;
  /// The same, whatever became of GPUs that it depends on.
  Result<> wait_for_own_work(Deadline deadline) const;

  /// When the device came to an event that was recorded here and is reached. Empty if that cannot be told.
  std::optional<Clock::time_point> time_of(const NativeEvent& event) const;

 private:
  /// A mark of the device whose time is known by our clock, to within `error`.
  struct Reference {
    NativeEvent event;
    Clock::time_point at;
    Clock::duration error;
  };

  explicit StreamState(std::shared_ptr<Context> context) : context_(std::move(context)) {}
  /// Whether the device came to the mark within its patience; the best of several is kept.
  Result<bool> take_reference();
  bool lost() const;
  template <class Ask, class Usable>
  Result<> ask_until(Ask ask, Usable usable, Deadline deadline) const;

  const std::shared_ptr<Context> context_;
  CUstream native_ = nullptr;
  std::optional<Reference> reference_;

  std::atomic<bool> depends_ = false;  ///< whether needed_ has anything: most streams never take the mutex
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Context>> needed_;
};

class CudaEvent final : public Event {
 public:
  static Result<std::unique_ptr<Event>> create(std::shared_ptr<Context> context);

  bool reached() const override;
  Result<> wait(Deadline deadline) override;
  /// As the device's own clock says, to within the half millisecond that the reference of its stream may be off and
  /// what two clocks drift apart in the life of a stream.
  std::optional<Clock::time_point> reached_at() const override;

 private:
  friend class CudaStream;
  CudaEvent() = default;
  /// The driver's events belong to one context each; ours may be recorded on any device's stream.
  Result<const NativeEvent*> native_in(const std::shared_ptr<Context>& context);

  std::vector<std::unique_ptr<NativeEvent>> natives_;  // the first is of the device that made us
  const NativeEvent* recorded_ = nullptr;              // of natives_, on state_; null before the first record
  std::shared_ptr<const StreamState> state_;
};

class CudaStream final : public Stream {
 public:
  static Result<std::unique_ptr<Stream>> create(std::shared_ptr<Context> context, std::shared_ptr<Watcher> watcher,
                                                std::shared_ptr<Registrations> registrations);
  CudaStream(std::shared_ptr<StreamState> state, std::shared_ptr<Watcher> watcher,
             std::shared_ptr<Registrations> registrations);
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  /// Waits for the work, but not for ever: a GPU that has not done it in half a minute is fenced, so that nobody frees
  /// memory that it may still use.
  ~CudaStream() override;

  /// Of registered memory. The driver copies other memory in steps of its own, for which it lets the caller wait until
  /// the work queued before is done.
  Result<> copy_from_host(Range to, const std::byte* from) override;
  Result<> copy(Range to, Range from) override;
  Result<> record(Event& event) override;
  Result<> wait(const Event& event) override;
  /// After the device is fenced it wakes at once and succeeds: the work is done or failed.
  Result<> wake_when_done(const Waker& waker) override;
  Result<> synchronize(Deadline deadline) override;

  CUstream native() const { return state_->native(); }

 private:
  Context& context() const { return *state_->context(); }

  const std::shared_ptr<StreamState> state_;
  const std::shared_ptr<Watcher> watcher_;
  const std::shared_ptr<Registrations> registrations_;
};

}  // namespace ckptd::device::cuda
