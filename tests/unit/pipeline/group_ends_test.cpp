// How a push ends while its lanes are in the hands of a collective that hangs: each wait of theirs is one that only an
// abort of the group ends before its deadline.
#include <catch2/catch.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "tests/unit/pipeline/bench.h"

using namespace ckptd;
using namespace ckptd::pipeline;
using namespace std::chrono_literals;
using tests::Bench;
using tests::Script;

namespace {

/// What the members of one group do together: from some step on nothing comes to an end until the group is aborted.
struct Stuck {
  enum class At { agree, broadcast };
  At at = At::broadcast;
  unsigned broadcasts = 0;                ///< of each member, that go well
  std::function<void()> aborted_first{};  ///< called with the first abort

  std::mutex mutex;
  std::condition_variable changed;
  unsigned waiting = 0, aborts = 0;
  std::optional<Error> reason;

  Result<> wait(Deadline deadline) {
    std::unique_lock lock(mutex);
    ++waiting;
    changed.notify_all();
    if (changed.wait_until(lock, deadline.at(), [&] { return reason.has_value(); })) return std::unexpected(*reason);
    return fail(ErrorKind::timed_out, "the group came to no end by its deadline");
  }
  void abort(Error why) {
    std::unique_lock lock(mutex);
    const bool first = aborts++ == 0;
    if (!reason) reason = std::move(why);
    changed.notify_all();
    lock.unlock();
    if (first && aborted_first) aborted_first();
  }
  void wait_until_waiting(unsigned members) {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, 20s, [&] { return waiting == members; });
  }
};

class StuckMember final : public collective::Member {
 public:
  StuckMember(Stuck& stuck, std::unique_ptr<collective::Member> under) : stuck_(stuck), under_(std::move(under)) {}

  std::uint32_t index() const override { return under_->index(); }
  Result<> broadcast(device::Range slot, std::uint32_t from, device::Stream& stream, Deadline deadline) override {
    if (stuck_.at == Stuck::At::broadcast && done_++ >= stuck_.broadcasts) return stuck_.wait(deadline);
    return under_->broadcast(slot, from, stream, deadline);
  }
  Result<> agree(Result<> outcome, Deadline deadline) override {
    if (stuck_.at == Stuck::At::agree) return stuck_.wait(deadline);
    return under_->agree(std::move(outcome), deadline);
  }
  void abort(Error reason) noexcept override {
    under_->abort(reason);
    stuck_.abort(std::move(reason));
  }

 private:
  Stuck& stuck_;
  const std::unique_ptr<collective::Member> under_;
  unsigned done_ = 0;
};

void make_stuck(Bench& bench, Stuck& stuck) {
  bench.meddle = [&stuck](std::vector<Lane>& lanes) {
    for (auto& lane : lanes) lane.member = std::make_unique<StuckMember>(stuck, std::move(lane.member));
  };
}

}  // namespace

TEST_CASE("a cancel is heard while all lanes wait for a step of the collective") {
  Stuck stuck;
  SECTION("the agreement before the first byte") { stuck.at = Stuck::At::agree; }
  SECTION("the first broadcast") {}
  SECTION("a later one") { stuck.broadcasts = 4; }
  Bench bench(3);
  bench.deadlines.connect = bench.deadlines.upload = bench.deadlines.reload = 60s;
  make_stuck(bench, stuck);
  std::stop_source stop;
  Clock::time_point stopped;
  std::jthread later([&] {
    stuck.wait_until_waiting(3);
    stopped = Clock::now();
    stop.request_stop();
  });
  auto pushed = bench.run(plan::FanOut::broadcast, std::vector<Script>(3), stop.get_token());
  const auto ended = Clock::now();
  later.join();
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::cancelled);
  CHECK(pushed.error().sentence == "the update was cancelled");
  CHECK(stuck.waiting == 3);
  CHECK(ended - stopped < 30s);  // sooner than any deadline here, however slow the machine
  for (auto& model : bench.models) CHECK(model->failed == "the update was cancelled");
}

TEST_CASE("a lane that fails releases those who wait for a step of the collective, with its error") {
  Stuck stuck;
  stuck.broadcasts = 1;
  Bench bench(3);
  bench.deadlines.upload = 60s;
  bench.deadlines.reload = 60s;
  std::vector<Script> scripts(3);
  scripts[1].fail_at_bucket = 0;
  make_stuck(bench, stuck);
  // One slot: the second broadcast begins when the first bucket is in the model, so lane 1 never comes to it.
  auto pushed = bench.run(plan::FanOut::broadcast, scripts, {}, 4096, 4096);
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().sentence.find("HOST-1") != std::string::npos);
  CHECK(stuck.reason->sentence == pushed.error().sentence);
}

/// What a group has queued may come to no end either, as a kernel of NCCL whose peer is gone: it is the abort that ends
/// it, and a stream is not gone before its work is.
TEST_CASE("the group is aborted before a lane waits for what it has queued on its stream") {
  Stuck stuck;
  stuck.broadcasts = 1'000;
  Bench bench(2);
  bench.deadlines.upload = 200ms;
  bench.deadlines.reload = 200ms;
  std::stop_source stop;
  bool by_abort = false;
  stuck.aborted_first = [&] {
    by_abort = true;
    bench.shuffler.resume();
  };
  std::jthread rescue([&](std::stop_token over) {  // so that it fails and does not hang
    for (int i = 0; i < 6'000 && !over.stop_requested(); ++i) std::this_thread::sleep_for(10ms);
    bench.shuffler.resume();
  });
  ErrorKind kind = ErrorKind::timed_out;
  std::jthread later;
  SECTION("when an upload has missed its deadline") {}
  SECTION("when the push is stopped") {
    kind = ErrorKind::cancelled;
    bench.deadlines.upload = 60s;
    later = std::jthread([&] {
      std::this_thread::sleep_for(200ms);
      stop.request_stop();
    });
  }
  make_stuck(bench, stuck);
  bench.shuffler.pause();
  const auto start = Clock::now();
  auto pushed = bench.run(plan::FanOut::broadcast, std::vector<Script>(2), stop.get_token());
  CHECK(Clock::now() - start < 30s);
  rescue.request_stop();
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == kind);
  CHECK(by_abort);
}
