#include "daemon/pipeline/push.h"

#include <array>
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "common/units.h"
#include "daemon/collective/local/local_group.h"
#include "daemon/device/host/host_device.h"
#include "daemon/pipeline/arena.h"
#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/fake_hold.h"
#include "tests/support/shuffling_device/seed.h"
#include "tests/support/shuffling_device/shuffling_device.h"
#include "tests/unit/pipeline/bench.h"

using namespace ckptd;
using namespace ckptd::pipeline;
using namespace std::chrono_literals;
using tests::Bench;
using tests::Script;

namespace {

/// Spans of one kind, in the order in which they ended.
std::vector<Span> spans_of(const LaneReport& lane, Span::What what) {
  std::vector<Span> spans;
  for (const auto& span : lane.spans)
    if (span.what == what) spans.push_back(span);
  return spans;
}

/// A whole push: each step once, each bucket uploaded and then reloaded, in their order, with no overlap within a kind.
void check_spans(const LaneReport& lane, const plan::Plan& plan) {
  REQUIRE(std::ranges::is_sorted(lane.spans, {}, &Span::end));
  const auto uploads = spans_of(lane, Span::What::upload), reloads = spans_of(lane, Span::What::reload);
  REQUIRE(uploads.size() == plan.buckets.size());
  REQUIRE(reloads.size() == plan.buckets.size());
  std::uint64_t uploaded = 0, reloaded = 0;
  for (std::size_t i = 0; i < uploads.size(); ++i) {
    CHECK(uploads[i].bucket == i);
    CHECK(reloads[i].bucket == i);
    CHECK(uploads[i].begin <= uploads[i].end);
    CHECK(uploads[i].end <= reloads[i].begin);
    CHECK(reloads[i].begin <= reloads[i].end);
    if (i > 0) CHECK(uploads[i - 1].end <= uploads[i].begin);
    if (i > 0) CHECK(reloads[i - 1].end <= reloads[i].begin);
    if (const auto after = plan.buckets[i].after; after > 0) CHECK(reloads[after - 1].end <= uploads[i].begin);
    uploaded += uploads[i].bytes, reloaded += reloads[i].bytes;
  }
  CHECK(uploaded == plan.tensor_bytes);
  CHECK(reloaded == plan.tensor_bytes);
  const auto connects = spans_of(lane, Span::What::connect), releases = spans_of(lane, Span::What::release),
             finishes = spans_of(lane, Span::What::finish);
  REQUIRE((connects.size() == 1 && releases.size() == 1 && finishes.size() == 1));
  CHECK(connects[0].end <= reloads.front().begin);
  CHECK(reloads.back().end <= releases[0].begin);
  CHECK(releases[0].end <= finishes[0].begin);
  CHECK(lane.spans.size() == 2 * plan.buckets.size() + 3);
}

void check_both_fan_outs(std::uint32_t members, std::uint64_t bucket_bytes, std::uint64_t arena_bytes) {
  for (auto fan_out : {plan::FanOut::independent, plan::FanOut::broadcast}) {
    INFO(plan::name_of(fan_out) << " to " << members << ", bucket " << bucket_bytes << ", arena " << arena_bytes);
    Bench bench(members);
    auto pushed = bench.run(fan_out, std::vector<Script>(members), {}, bucket_bytes, arena_bytes);
    REQUIRE(pushed);
    for (auto& model : bench.models) {
      bench.check_model(*model);
      CHECK(model->steps.front() == "offer");
      CHECK(model->steps[model->steps.size() - 2] == "release");
      CHECK(model->steps.back() == "finish");
      CHECK(model->steps.size() == bench.plan.buckets.size() + 3);
    }
    CHECK(bench.touches == 1);
    CHECK(bench.progress.reloaded_bytes == members * bench.plan.tensor_bytes);
    CHECK(bench.offers == 1);
    REQUIRE(bench.report.lanes.size() == members);
    for (const auto& lane : bench.report.lanes) {
      CHECK(lane.bytes == bench.plan.tensor_bytes);
      check_spans(lane, bench.plan);
    }
  }
}

}  // namespace

TEST_CASE("every rank gets every byte, whatever legal order the devices choose") {
  for (std::uint32_t members = 1; members <= 4; ++members) {
    check_both_fan_outs(members, 4096, 3 * 4096);
    check_both_fan_outs(members, 4096, 4096);       // one slot: nothing overlaps
    check_both_fan_outs(members, 3000, 64 * 1024);  // many slots
    check_both_fan_outs(members, 1 << 20, 1 << 20); // one bucket
  }
}

TEST_CASE("between buckets nothing is allocated, made or registered, and no stream is waited for") {
  using tests::Call;
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  constexpr std::array kCalls{Call::allocate, Call::open, Call::make_stream, Call::make_event, Call::register_host,
                              Call::synchronize};
  const std::uint32_t members = fan_out == plan::FanOut::broadcast ? 3 : 1;  // else one may begin while others get ready
  Bench bench(members);
  std::array<unsigned, kCalls.size()> at_first{};
  bench.gates.before_first_bucket = [&]() -> Result<> {
    std::ranges::transform(kCalls, at_first.begin(), [&](auto call) { return bench.shuffler.calls(call); });
    return {};
  };
  REQUIRE(bench.run(fan_out, std::vector<Script>(members)));
  REQUIRE(bench.plan.buckets.size() > 5);
  for (std::size_t i = 0; i < kCalls.size(); ++i) {
    INFO("call " << static_cast<int>(kCalls[i]));
    CHECK(bench.shuffler.calls(kCalls[i]) == at_first[i]);
  }
}

TEST_CASE("the first failure ends all lanes and fails every session") {
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  std::vector<Script> scripts(3);
  std::chrono::milliseconds Deadlines::* missed = nullptr;
  SECTION("a rank raises in a bucket") { scripts[1].fail_at_bucket = 2; }
  SECTION("a rank cannot open the memory") { scripts[1].fails_open = true; }
  SECTION("a rank raises in its post hook") { scripts[1].fails_finish = true; }
  SECTION("a rank stalls") {
    scripts[1].stall_at_bucket = 3;
    missed = &Deadlines::reload;
  }
  SECTION("a rank never connects") {
    scripts[1].never_connects = true;
    missed = &Deadlines::connect;
  }
  // Another rank whose thread is held up misses a deadline as well: then once more with more time.
  for (const auto span : {200ms, 1'000ms, 5'000ms}) {
    Bench bench(3);
    if (missed != nullptr) bench.deadlines.*missed = span;
    auto pushed = bench.run(fan_out, scripts);
    REQUIRE_FALSE(pushed);
    INFO(pushed.error().sentence);
    for (auto& model : bench.models) {
      // Who had finished before is done; nobody else is left waiting.
      const bool finished = !model->steps.empty() && model->steps.back() == "finish";
      CHECK((finished || !model->failed.empty()));
      CHECK_FALSE(model->broke_lockstep);
    }
    const bool named = pushed.error().sentence.find("HOST-1") != std::string::npos;
    if (!named && missed != nullptr && pushed.error().kind == ErrorKind::timed_out && span < 5s) continue;
    CHECK(named);
    CHECK_FALSE(bench.models[1]->failed.empty());
    break;
  }
}

TEST_CASE("a push waits for no receipt, and who looks for it afterwards takes note of it") {
  Bench bench(2);
  std::vector<Script> scripts(2);
  auto late = std::make_shared<tests::FakeHold>();
  late->looks_until_release = 5;
  scripts[1].hold = late;
  REQUIRE(bench.run(plan::FanOut::independent, scripts));
  CHECK(late->looks == 0);
  CHECK(bench.report.lanes[1].receipt == LaneReport::Receipt::missing);
  CHECK(bench.report.holds[1] == late);
  for (const auto& lane : bench.report.lanes) CHECK(spans_of(lane, Span::What::receipt).empty());
  bench.await_receipts();
  const auto &without = bench.report.lanes[0], &with = bench.report.lanes[1];
  CHECK(without.receipt == LaneReport::Receipt::not_needed);
  CHECK(spans_of(without, Span::What::receipt).empty());
  CHECK(with.receipt == LaneReport::Receipt::seen);
  CHECK(late->looks == 6);
  const auto spans = spans_of(with, Span::What::receipt);
  REQUIRE(spans.size() == 1);
  CHECK(spans_of(with, Span::What::finish).front().end <= spans[0].begin);
  CHECK(with.receipt_seconds > 0);
  CHECK(bench.report.holds == std::vector<std::shared_ptr<ranks::Hold>>{nullptr, nullptr});
  for (const auto& lane : bench.report.lanes) CHECK(lane.finished);
}

TEST_CASE("a receipt that does not come leaves the hold to the caller") {
  Bench bench(2);
  bench.deadlines.receipt = 100ms;
  std::vector<Script> scripts(2);
  scripts[0].hold = std::make_shared<tests::FakeHold>();
  REQUIRE(bench.run(plan::FanOut::independent, scripts));
  const auto start = Clock::now();
  bench.await_receipts();
  CHECK(Clock::now() - start >= 100ms);
  CHECK(bench.report.lanes[0].receipt == LaneReport::Receipt::missing);
  CHECK(bench.report.lanes[0].finished);
  CHECK(bench.report.holds[0] == scripts[0].hold);
  CHECK(bench.report.holds[1] == nullptr);
  for (auto& model : bench.models) bench.check_model(*model);
}

TEST_CASE("a stop ends the wait for a receipt") {
  Bench bench(1);
  std::vector<Script> scripts(1);
  auto hold = std::make_shared<tests::FakeHold>();
  scripts[0].hold = hold;
  bench.deadlines.receipt = 60s;
  std::stop_source stop;
  std::jthread later([&] {
    while (hold->looks == 0) std::this_thread::sleep_for(1ms);
    stop.request_stop();
  });
  const auto start = Clock::now();
  CHECK(bench.run(plan::FanOut::independent, scripts, stop.get_token()));
  bench.await_receipts(stop.get_token());
  CHECK(Clock::now() - start < 30s);
  CHECK(bench.report.holds[0] == hold);
}

TEST_CASE("after a failure every hold is handed to the caller, and nobody waits for receipts") {
  Bench bench(2);
  bench.deadlines.receipt = 60s;
  std::vector<Script> scripts(2);
  scripts[1].fail_at_bucket = 1;
  for (auto& script : scripts) script.hold = std::make_shared<tests::FakeHold>();
  const auto start = Clock::now();
  REQUIRE_FALSE(bench.run(plan::FanOut::independent, scripts));
  CHECK(Clock::now() - start < 30s);
  for (std::size_t i = 0; i < 2; ++i) CHECK(bench.report.holds[i] == scripts[i].hold);
  CHECK_FALSE(bench.report.lanes[1].finished);
}

TEST_CASE("a cancel before the first bucket touches nobody") {
  Bench bench(2);
  std::vector<Script> scripts(2);
  scripts[0].never_connects = scripts[1].never_connects = true;
  std::stop_source stop;
  std::jthread later([&] {
    const auto offered = [](const auto& model) {
      std::lock_guard lock(model->mutex);
      return !model->steps.empty();
    };
    const auto deadline = Deadline::in(4s);
    while (!std::ranges::all_of(bench.models, offered) && !deadline.passed()) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(50ms);
    stop.request_stop();
  });
  auto pushed = bench.run(plan::FanOut::independent, scripts, stop.get_token());
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::cancelled);
  CHECK_FALSE(bench.progress.touched);
  CHECK(bench.touches == 0);
  for (const auto& lane : bench.report.lanes) {
    CHECK(spans_of(lane, Span::What::connect).size() == 1);  // what it waited for
    CHECK(lane.connect_seconds > 0.01);
    CHECK(spans_of(lane, Span::What::reload).empty());
  }
}

TEST_CASE("buckets are uploaded while nobody knows of the update, and a refusal then leaves nobody to be told") {
  Bench bench(2);
  bool uploading = false;
  bench.gates.before_offers = [&]() -> Result<> {
    const auto deadline = Deadline::in(5s);
    while (bench.progress.uploaded_bytes == 0 && !deadline.passed()) std::this_thread::sleep_for(1ms);
    uploading = bench.progress.uploaded_bytes > 0;
    ++bench.offers;
    return fail(ErrorKind::no_space, "the journal's disk is full");
  };
  auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(2));
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::no_space);
  CHECK(uploading);
  CHECK(bench.offers == 1);
  CHECK(bench.touches == 0);
  for (auto& model : bench.models) {
    CHECK(model->steps.empty());
    CHECK(model->failed.empty());
    CHECK(model->discarded);
  }
}

TEST_CASE("a lane that fails before the offers keeps every endpoint unknown") {
  // Whichever comes first, the failure or the gate: never is an endpoint told of that is closed without a word.
  for (unsigned round = 0; round < 30; ++round) {
    Bench bench(2);
    bench.shuffler.fail_nth(tests::Call::work_copy_from_host, 1 + round % 4, "HOST-1");
    auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(2));
    REQUIRE_FALSE(pushed);
    for (auto& model : bench.models) {
      CHECK(model->discarded == (bench.offers == 0));
      const bool finished = !model->steps.empty() && model->steps.back() == "finish";  // before the other failed
      CHECK((finished || model->failed.empty() == (bench.offers == 0)));
    }
  }
}

TEST_CASE("a push that failed tells how far it came") {
  // A rank whose thread is held up in an earlier bucket has come less far: then once more with more time.
  for (const auto reload : {200ms, 1'000ms, 5'000ms}) {
    Bench bench(1);
    std::vector<Script> scripts(1);
    scripts[0].stall_at_bucket = 2;
    bench.deadlines.reload = reload;
    REQUIRE_FALSE(bench.run(plan::FanOut::independent, scripts));
    REQUIRE(bench.report.lanes.size() == 1);
    const auto& lane = bench.report.lanes[0];
    CHECK(lane.device == "HOST-0");
    CHECK(lane.pid == 42);
    const auto reloads = spans_of(lane, Span::What::reload), uploads = spans_of(lane, Span::What::upload);
    if (reloads.size() < 3 && reload < 5s) continue;
    REQUIRE(reloads.size() == 3);
    CHECK(uploads.size() >= 3);
    CHECK(lane.bytes == reloads[0].bytes + reloads[1].bytes);
    CHECK(reloads[2].bucket == 2);
    CHECK(reloads[2].end - reloads[2].begin >= reload);
    CHECK(bench.report.seconds >= 0.2);
    break;
  }
}

TEST_CASE("a cancel in the middle wakes lanes that wait for a rank") {
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  Bench bench(2);
  bench.deadlines = {60s, 60s, 60s, 60s, 60s, 60s, 60s};
  std::vector<Script> scripts(2);
  scripts[0].stall_at_bucket = 1;
  std::stop_source stop;
  std::jthread later([&] {
    while (!bench.progress.touched) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(20ms);
    stop.request_stop();
  });
  const auto start = Clock::now();
  auto pushed = bench.run(fan_out, scripts, stop.get_token());
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::cancelled);
  CHECK(Clock::now() - start < 30s);  // sooner than any deadline here
}

TEST_CASE("what is refused before the first bucket ends the push while it is clean") {
  Bench bench(2);
  bench.gates.before_first_bucket = []() -> Result<> { return fail(ErrorKind::no_space, "the journal's disk is full"); };
  auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(2));
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::no_space);
  CHECK_FALSE(bench.progress.touched);
  for (auto& model : bench.models) CHECK(model->tensors.empty());
}

TEST_CASE("a device that fails at any call ends the push with its error and never with wrong bytes") {
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  using tests::Call;
  for (auto call : {Call::make_stream, Call::make_event, Call::export_to_processes, Call::copy_from_host, Call::record,
                    Call::wake_when_done, Call::work_copy_from_host, Call::allocate, Call::copy, Call::wait,
                    Call::work_copy, Call::open}) {
    for (unsigned n : {1u, 2u, 7u}) {
      Bench bench(2);
      bench.shuffler.fail_nth(call, n, "HOST-1");
      auto pushed = bench.run(fan_out, std::vector<Script>(2));
      INFO("call " << static_cast<int>(call) << " number " << n);
      if (pushed) {
        for (auto& model : bench.models) bench.check_model(*model);
      } else {
        INFO(pushed.error().sentence);
        CHECK(pushed.error().sentence.find("injected") != std::string::npos);
      }
    }
  }
}

TEST_CASE("an upload that never ends is told from a rank that stalls") {
  Bench bench(1);
  bench.deadlines.upload = 200ms;
  bench.shuffler.pause();
  std::jthread later([&] {
    const auto deadline = Deadline::in(20s);
    while (!bench.models[0]->peer_asked && !deadline.passed()) std::this_thread::sleep_for(1ms);
    bench.shuffler.resume();  // the lane has given it up; or the stream could not be destroyed
  });
  auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(1));
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::timed_out);
  CHECK(pushed.error().sentence.find("uploading bucket 0") != std::string::npos);
  CHECK_FALSE(bench.progress.touched);
}

namespace {

/// Devices that believe in 64 MiB of free memory, whatever this machine has.
struct SmallMachine {
  SmallMachine() {
    tests::write_file(root / "proc/meminfo", "MemTotal:         131072 kB\nMemAvailable:      65536 kB\n");
  }
  std::unique_ptr<device::Device> device(unsigned index) const { return device::host::make_host_device(index, root.path()); }
  tests::Folder root;
};

}  // namespace

TEST_CASE("an arena that was given back is used again, one for each device is kept") {
  tests::Shuffler shuffler(1);
  SmallMachine machine;
  auto device = shuffler.wrap(machine.device(0)), other = shuffler.wrap(machine.device(1));
  const auto made = [&] { return shuffler.calls(tests::Call::allocate); };
  const auto borrow = [](Arenas& arenas, device::Device& from, std::uint64_t bytes) {
    auto loan = arenas.borrow(from, bytes, 4096);
    REQUIRE(loan);
    return std::move(*loan);
  };
  Arenas arenas(true);
  {
    auto one = borrow(arenas, *device, 8192), two = borrow(arenas, *device, 16384);
    CHECK(arenas.usage(*device).lent_bytes == 8192 + 16384);
    const auto a = one.memory().range(), b = two.memory().range();
    CHECK((a.address + a.bytes <= b.address || b.address + b.bytes <= a.address));
    std::move(two).give_back();
    std::move(one).give_back();
  }
  CHECK(arenas.usage(*device).lent_bytes == 0);
  CHECK(arenas.usage(*device).kept_bytes == 16384);  // the larger one
  CHECK(made() == 2);
  {
    auto smaller = borrow(arenas, *device, 4096);
    CHECK(smaller.memory().range().bytes == 16384);
    CHECK(arenas.usage(*device).kept_bytes == 0);
    CHECK(made() == 2);
    std::move(smaller).give_back();
    auto elsewhere = borrow(arenas, *other, 4096);
    CHECK(made() == 3);
  }
  CHECK(arenas.usage(*other).kept_bytes == 0);  // not given back: its rank may still map it
  {
    auto larger = borrow(arenas, *device, 32768);
    CHECK(made() == 4);
    CHECK(arenas.usage(*device).kept_bytes == 0);
    std::move(larger).give_back();
  }
  CHECK(arenas.trim() == 32768);
  CHECK(arenas.trim() == 0);
  CHECK(arenas.usage(*device).kept_bytes == 0);

  // As much as the device has is enough, however much is wanted.
  auto most = arenas.borrow(*device, std::uint64_t{1} << 60, 8 * kMiB);
  REQUIRE(most);
  std::move(*most).give_back();
  const auto before = made();
  auto again = arenas.borrow(*device, std::uint64_t{1} << 60, 8 * kMiB);
  CHECK(again);
  CHECK(made() == before);

  Arenas nothing_kept(false);
  borrow(nothing_kept, *device, 8192).give_back();
  CHECK(nothing_kept.usage(*device).kept_bytes == 0);
}

TEST_CASE("an arena shrinks on out of memory, down to the largest tensor") {
  SmallMachine machine;
  auto device = machine.device(0);
  auto arena = allocate_arena(*device, std::uint64_t{1} << 60, 8 * kMiB);
  REQUIRE(arena);
  CHECK((*arena)->range().bytes >= 8 * kMiB);
  auto refused = allocate_arena(*device, std::uint64_t{1} << 60, std::uint64_t{1} << 59);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK(refused.error().sentence.find("HOST-0") != std::string::npos);
}
