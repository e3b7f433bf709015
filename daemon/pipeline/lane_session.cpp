// One session of a lane's rank: upload, spread and reload, overlapped.
#include "daemon/pipeline/lane.h"

#include <algorithm>
#include <array>
#include <exception>
#include <functional>

#include "common/waker.h"

namespace ckptd::pipeline {
namespace {

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// One session of a lane's rank. `member` is null when the lane uploads for itself alone.
class Runner {
 public:
  Runner(Lane& lane, Together& together, collective::Member* member, LaneReport& report, Progress& progress,
         std::unique_ptr<device::Stream> stream, std::unique_ptr<device::Stream> own_stream, Waker stream_waker,
         Waker stop_waker)
      : lane_(lane),
        all_(together),
        member_(member),
        report_(report),
        progress_(progress),
        buckets_(together.plan.buckets),
        stream_waker_(std::move(stream_waker)),
        stop_waker_(std::move(stop_waker)),
        stream_(std::move(stream)),
        own_stream_(std::move(own_stream)) {}

  /// Everything that the loop needs, before the first bucket moves.
  Result<> prepare() {
    for (auto& upload : uploads_) {
      upload.done = CKPTD_TRY(lane_.device->make_event());
      if (member_) upload.filled = CKPTD_TRY(lane_.device->make_event());
    }
    std::size_t most_tensors = 0;
    bucket_bytes_.reserve(buckets_.size());
    for (const auto& bucket : buckets_) {
      most_tensors = std::max(most_tensors, bucket.tensors.size());
      std::uint64_t bytes = 0;
      for (const auto& run : bucket.runs) bytes += run.bytes;
      bucket_bytes_.push_back(bytes);
    }
    views_.reserve(most_tensors);
    report_.spans.reserve(2 * buckets_.size() + 3);  // an upload and a reload each, connect, release, finish
    return {};
  }

  Result<> run() {
    std::stop_callback on_stop(all_.stopped(), [this] { stop_waker_.wake(); });
    CKPTD_TRY(open());
    CKPTD_TRY(push());
    CKPTD_TRY(close());
    report_.finished = true;
    return {};
  }

  /// The spans of what was under way, so that a push that failed shows what it waited for.
  void wind_up() {
    if (auto peer = lane_.session->peer()) report_.pid = peer->pid;
    while (announced_ < queued_ && uploaded(announced_).wait(Deadline::in({}))) note_upload(announced_++);
    if (step_) end_step();
    std::ranges::stable_sort(report_.spans, {}, &Span::end);
  }

 private:
  static constexpr std::uint32_t kUploadsAhead = 16;  ///< bounds the events; the arena's slots bound it more often

  struct Upload {
    std::unique_ptr<device::Event> done;
    std::unique_ptr<device::Event> filled;  ///< its owner's slot, with more than one lane
    Clock::time_point queued;
  };
  Upload& upload_of(std::uint32_t bucket) { return uploads_[bucket % kUploadsAhead]; }
  device::Event& uploaded(std::uint32_t bucket) { return *upload_of(bucket).done; }

  void begin_step(Span::What what, std::uint32_t bucket = 0, std::uint64_t bytes = 0) {
    step_ = Span{what, bucket, bytes, Clock::now(), {}};
  }
  void end_step() {
    step_->end = Clock::now();
    const auto seconds = std::chrono::duration<double>(step_->end - step_->begin).count();
    if (step_->what == Span::What::connect) report_.connect_seconds = seconds;
    if (step_->what == Span::What::release || step_->what == Span::What::finish) report_.finish_seconds += seconds;
    report_.spans.push_back(*step_);
    step_.reset();
  }
  /// Buckets come in their order, which is the stream's: one could start when the one before it was there.
  void note_upload(std::uint32_t bucket) {
    const auto begin = std::max(upload_of(bucket).queued, last_upload_end_);
    last_upload_end_ = std::max(begin, uploaded(bucket).reached_at().value_or(Clock::now()));
    report_.spans.push_back({Span::What::upload, bucket, bucket_bytes_[bucket], begin, last_upload_end_});
  }

  /// Sends a step and waits for its acknowledgement, with nothing else to do meanwhile.
  Result<> step(Span::What what, const std::function<Result<>()>& send, std::chrono::milliseconds limit) {
    CKPTD_TRY(all_.check_stop());
    begin_step(what);
    CKPTD_TRY(send());
    const std::array wakers{stop_waker_.fd()};
    const auto first = Deadline::in(limit);
    for (auto deadline = first;;) {
      auto woken = lane_.session->wait(wakers, deadline);
      // Ours has passed: what a session calls a time-out of its own comes before that, and ends it.
      if (!woken && woken.error().kind == ErrorKind::timed_out && what == Span::What::connect && deadline.passed()) {
        CKPTD_TRY(all_.check_stop());
        if (deadline = all_.connect_deadline(first); !deadline.passed()) continue;
      }
      if (CKPTD_TRY(std::move(woken)) == ranks::Session::Woken::acknowledged) break;
      CKPTD_TRY(all_.check_stop());
    }
    end_step();
    return {};
  }

  Result<> open() {
    auto exported = CKPTD_TRY(lane_.arena->export_to_processes());
    // The first buckets are on their way while the engine is still waking its ranks. Not so in lockstep, which begins
    // when all are there.
    while (!member_ && may_upload()) CKPTD_TRY(upload(queued_));
    CKPTD_TRY(all_.offers.pass(all_));
    CKPTD_TRY(step(Span::What::connect, [&] { return lane_.session->offer(exported); }, all_.deadlines.connect));
    ++progress_.connected;
    // A broadcast is lockstep: it starts when every rank has opened its handle.
    if (member_) return member_->agree({}, Deadline::in(all_.deadlines.connect));
    return {};
  }

  /// Upload and reload overlap: while the rank reloads one bucket, the stream fills the slots that are free.
  Result<> push() {
    const auto start = Clock::now();
    CKPTD_TRY(all_.first_bucket.pass(all_));
    while (reloaded_ < buckets_.size()) {
      CKPTD_TRY(all_.check_stop());
      const bool more = may_upload();
      if (more) CKPTD_TRY(upload(queued_));
      if (!reloading_ && announced_ < queued_ && uploaded(announced_).reached()) CKPTD_TRY(announce());
      // With more to queue the session is only looked at: its own waker makes the wait return at once.
      if (may_upload()) stream_waker_.wake();
      CKPTD_TRY(wait());
      report_.push_seconds = seconds_since(start);
    }
    return {};
  }

  bool may_upload() const {
    return queued_ < buckets_.size() && buckets_[queued_].after <= reloaded_ && queued_ < reloaded_ + kUploadsAhead;
  }

  Result<> upload(std::uint32_t number) {
    const auto& bucket = buckets_[number];
    const auto slot = lane_.arena->range().part(bucket.slot_offset, bucket.bytes);
    upload_of(number).queued = Clock::now();
    if (!member_ || member_->index() == bucket.owner) CKPTD_TRY(of_upload(number, fill(number, slot)));
    if (member_) CKPTD_TRY(spread(number, slot));
    CKPTD_TRY(of_upload(number, stream_->record(uploaded(number))));
    CKPTD_TRY(of_upload(number, stream_->wake_when_done(stream_waker_)));
    upload_deadline_ = Deadline::in(all_.deadlines.upload);
    ++queued_;
    return {};
  }

  /// A failure of the device, with the bucket that was on its way and the rank that it was for.
  Result<> of_upload(std::uint32_t number, Result<> outcome) const { return of_step("uploading", number, std::move(outcome)); }
  Result<> of_step(const char* doing, std::uint32_t number, Result<> outcome) const {
    if (outcome) return outcome;
    const auto peer = lane_.session->peer();
    return std::unexpected(outcome.error().within(
        fmt::format("{} bucket {} of {} to {} for {}", doing, number, buckets_.size(), report_.device,
                    peer ? fmt::format("its rank of pid {}", peer->pid) : "a rank that was not there yet")));
  }

  /// With several lanes in a stream of its own: in the one that the spreads are in, it would wait for the upload of the
  /// bucket before, which is on another device's link. The slot is free: what was in it was in the model, so the owner of
  /// that bucket had been told that all others had it.
  Result<> fill(std::uint32_t number, device::Range slot) {
    device::Stream& stream = own_stream_ ? *own_stream_ : *stream_;
    for (const auto& run : buckets_[number].runs) CKPTD_TRY(copy(stream, slot, run));
    if (!own_stream_) return {};
    CKPTD_TRY(stream.record(*upload_of(number).filled));
    return stream_->wait(*upload_of(number).filled);
  }

  Result<> copy(device::Stream& stream, device::Range slot, const plan::CopyRun& run) {
    const auto bytes = all_.resting(run.resting_offset, run.bytes);
    if (bytes.size() != run.bytes)
      return fail(ErrorKind::internal, "copy run at {} of {} bytes does not lie together", run.resting_offset,
                  run.bytes);
    progress_.uploaded_bytes += run.bytes;
    return stream.copy_from_host(slot.part(run.bucket_offset, run.bytes), bytes.data());
  }

  /// Somebody else's rank may take its whole reload deadline before its lane comes to this bucket: then that lane's own
  /// error, which names the rank, must come first.
  Result<> spread(std::uint32_t number, device::Range slot) {
    const auto limit = all_.deadlines.upload + all_.deadlines.reload;
    auto spread = member_->broadcast(slot, buckets_[number].owner, *stream_, Deadline::in(limit));
    if (!spread) CKPTD_TRY(all_.check_stop());  // whose end of the group this is, and no failure of this step
    return of_step("spreading", number, std::move(spread));
  }

  Result<> announce() {
    CKPTD_TRY(of_upload(announced_, uploaded(announced_).wait(Deadline::in({}))));  // if the upload ended with an error
    const auto& bucket = buckets_[announced_];
    views_.clear();
    for (const auto& placement : bucket.tensors) {
      const auto& tensor = all_.manifest.tensors[placement.tensor];
      views_.push_back({tensor.name, tensor.dtype, tensor.shape, bucket.slot_offset + placement.offset});
    }
    progress_.touched = true;
    note_upload(announced_);
    upload_deadline_ = Deadline::in(all_.deadlines.upload);  // of the next one, which may be queued for long
    begin_step(Span::What::reload, announced_, bucket_bytes_[announced_]);
    reload_deadline_ = Deadline::in(all_.deadlines.reload);
    reloading_ = true;
    return lane_.session->reload(views_, announced_++);
  }

  Result<> wait() {
    const auto start = Clock::now();
    const std::array wakers{stop_waker_.fd(), stream_waker_.fd()};
    const auto deadline = reloading_ ? reload_deadline_ : upload_deadline_;
    auto woken = lane_.session->wait(wakers, deadline);
    (reloading_ ? report_.reload_wait_seconds : report_.upload_wait_seconds) += seconds_since(start);
    if (!woken && !reloading_ && woken.error().kind == ErrorKind::timed_out) return upload_timed_out();
    stream_waker_.drain();
    if (CKPTD_TRY(std::move(woken)) == ranks::Session::Woken::by_waker) return {};
    end_step();
    reloading_ = false;
    report_.bytes += bucket_bytes_[reloaded_];
    progress_.reloaded_bytes += bucket_bytes_[reloaded_];
    ++reloaded_;
    return {};
  }

  std::unexpected<Error> upload_timed_out() {
    auto reached = uploaded(announced_).wait(Deadline::in({}));
    if (!reached && reached.error().kind != ErrorKind::timed_out)
      return std::unexpected(of_upload(announced_, std::move(reached)).error());
    return fail(ErrorKind::timed_out, "uploading bucket {} of {} to {} made no progress within {} ms", announced_,
                buckets_.size(), report_.device, all_.deadlines.upload.count());
  }

  Result<> close() {
    auto release_limit = all_.deadlines.release;
    if (lane_.session->may_finish_on_release()) release_limit += all_.deadlines.finish;
    CKPTD_TRY(step(Span::What::release, [&] { return lane_.session->release(); }, release_limit));
    return step(Span::What::finish, [&] { return lane_.session->finish(); }, all_.deadlines.finish);
  }

  Lane& lane_;
  Together& all_;
  collective::Member* const member_;
  LaneReport& report_;
  Progress& progress_;
  const std::vector<plan::Bucket>& buckets_;
  std::vector<std::uint64_t> bucket_bytes_;  ///< without paddings
  std::array<Upload, kUploadsAhead> uploads_;
  std::vector<ranks::TensorView> views_;
  Waker stream_waker_, stop_waker_;
  // Destroyed before what queued work uses: their destructors wait for that work.
  std::unique_ptr<device::Stream> stream_;
  std::unique_ptr<device::Stream> own_stream_;  ///< of what this lane uploads for others too; null without others

  // Buckets [0, reloaded_) are in the model, reloaded_ == announced_ or one less, [announced_, queued_) are on the way
  // into their slots.
  std::uint32_t queued_ = 0, announced_ = 0, reloaded_ = 0;
  bool reloading_ = false;
  Deadline upload_deadline_ = Deadline::in({}), reload_deadline_ = Deadline::in({});
  std::optional<Span> step_;  ///< what the rank was sent and has not acknowledged
  Clock::time_point last_upload_end_;
};

}  // namespace

Result<> run_session(Lane& lane, Together& together, collective::Member* member, LaneReport& report,
                     Progress& progress) {
  auto stream = CKPTD_TRY(lane.device->make_stream());
  std::unique_ptr<device::Stream> own_stream;
  if (member != nullptr) own_stream = CKPTD_TRY(lane.device->make_stream());
  auto stream_waker = CKPTD_TRY(Waker::create());
  auto stop_waker = CKPTD_TRY(Waker::create());
  Runner runner(lane, together, member, report, progress, std::move(stream), std::move(own_stream),
                std::move(stream_waker), std::move(stop_waker));
  CKPTD_TRY(runner.prepare());
  auto outcome = [&]() -> Result<> {
    try {
      return runner.run();
    } catch (const std::exception& error) {
      return fail(ErrorKind::internal, "the update could not go on: {}", error.what());
    }
  }();
  runner.wind_up();
  // Before the runner goes, which waits for what is queued on its stream: where that is a step of the group which comes to
  // no end, it is the group's abort that ends it.
  if (!outcome) together.failed(outcome.error());
  return outcome;
}

}  // namespace ckptd::pipeline
