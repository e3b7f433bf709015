// What every device promises, stated once. A test program includes this and calls each function in a TEST_CASE of its
// own for each Backend (see tests/contract/backends.h).
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "tests/contract/backends.h"

namespace ckptd::tests {

using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

inline Deadline patience() { return Deadline::in(60s); }

template <class T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().sentence);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline Bytes random_bytes(std::size_t count, std::mt19937_64& random) {
  Bytes bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// A stream whose next work does not start before release().
template <class Backend>
class HeldStream {
 public:
  explicit HeldStream(device::Device& device) : stream_(must(device.make_stream())), hold_(device, *stream_) {}
  ~HeldStream() {
    release();
    stream_.reset();
  }

  void release() { hold_.release(); }
  device::Stream& operator*() { return *stream_; }
  device::Stream* operator->() { return stream_.get(); }

 private:
  std::unique_ptr<device::Stream> stream_;
  typename Backend::Hold hold_;
};

/// Registered with the device, as the store's memory is: else a GPU's driver may let who queues a copy wait for it.
class RegisteredBytes {
 public:
  RegisteredBytes(device::Device& device, Bytes bytes)
      : bytes_(std::move(bytes)), registration_(must(device.register_host(bytes_))) {}
  RegisteredBytes(std::size_t count, device::Device& device, std::mt19937_64& random)
      : RegisteredBytes(device, random_bytes(count, random)) {}

  const std::byte* data() const { return bytes_.data(); }
  const Bytes& operator*() const { return bytes_; }

 private:
  Bytes bytes_;
  std::unique_ptr<device::HostRegistration> registration_;
};

template <class Backend>
void memory_contract() {
  Backend backend;
  auto& device = backend.device();
  std::mt19937_64 random(seed_of_run());

  SECTION("memory has the size asked for, and allocations do not overlap") {
    auto one = must(device.allocate(100'001)), two = must(device.allocate(1));
    CHECK(one->range().bytes == 100'001);
    CHECK(two->range().bytes == 1);
    const auto a = one->range(), b = two->range();
    CHECK((a.address + a.bytes <= b.address || b.address + b.bytes <= a.address));
  }
  SECTION("too much is no_space and costs nothing") {
    const std::uint64_t free_bytes = must(device.free_bytes());
    CHECK(free_bytes > 0);
    for (const std::uint64_t bytes : {free_bytes + free_bytes / 2, std::numeric_limits<std::uint64_t>::max()}) {
      auto refused = device.allocate(bytes);
      REQUIRE_FALSE(refused);
      CHECK(refused.error().kind == ErrorKind::no_space);
      CHECK(refused.error().sentence.find(device.identity().uuid) != std::string::npos);
    }
    CHECK(device.allocate(4096));
  }
  SECTION("nothing cannot be allocated") {
    auto refused = device.allocate(0);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::invalid_argument);
  }
  SECTION("an export opens to the same bytes, for another device too, and outlives neither seal nor owner's handle") {
    auto memory = must(device.allocate(10'000));
    auto opened = must(backend.device(1).open(must(memory->export_to_processes())));
    CHECK(opened->range().bytes == 10'000);
    auto stream = must(backend.device(1).make_stream());
    const Bytes bytes = random_bytes(10'000, random);
    must(stream->copy_from_host(opened->range(), bytes.data()));
    must(stream->synchronize(patience()));
    CHECK(difference(Backend::bytes_at(memory->range()), bytes) == "");

    auto again = opened->export_to_processes();
    REQUIRE_FALSE(again);
    CHECK(again.error().kind == ErrorKind::unsupported);

    memory.reset();
    CHECK(difference(Backend::bytes_at(opened->range()), bytes) == "");
  }
  SECTION("another process sees the bytes, may write them and cannot change the size") {
    auto memory = must(device.allocate(10'000));
    auto stream = must(device.make_stream());
    const Bytes bytes = random_bytes(10'000, random);
    must(stream->copy_from_host(memory->range(), bytes.data()));
    must(stream->synchronize(patience()));
    CHECK(Backend::fare_of_a_child(must(memory->export_to_processes()), bytes) == 0);
    CHECK(Backend::bytes_at(memory->range().part(0, 1)).front() == std::byte{0xa5});
  }
  SECTION("the export of a freed allocation is an error") {
    auto memory = must(device.allocate(4096));
    const auto exported = must(memory->export_to_processes());
    memory.reset();
    CHECK_FALSE(device.open(exported));
  }
  SECTION("host memory can be registered, even none") {
    Bytes memory(1000);
    CHECK(device.register_host(memory));
    CHECK(device.register_host({}));
  }
}

template <class Backend>
void failed_stream_contract(Backend& backend, device::Stream& stream, device::Allocation& memory,
                            std::mt19937_64& random) {
  Bytes before = random_bytes(memory.range().bytes, random), after = random_bytes(memory.range().bytes, random);
  auto other = must(backend.device().make_stream());
  auto good = must(backend.device().make_event()), bad = must(backend.device().make_event());
  must(stream.copy_from_host(memory.range(), before.data()));
  must(stream.record(*good));
  must(backend.queue_failure(stream));
  must(stream.copy_from_host(memory.range(), after.data()));
  must(stream.record(*bad));
  const auto first = stream.synchronize(patience());
  REQUIRE_FALSE(first);
  CHECK(first.error().kind != ErrorKind::timed_out);
  for (int i = 0; i < 2; ++i) {
    const auto again = stream.synchronize(patience());
    REQUIRE_FALSE(again);
    CHECK(again.error().sentence == first.error().sentence);
    CHECK_FALSE(bad->wait(patience()));
    CHECK(bad->reached());
  }
  CHECK(good->wait(patience()));
  CHECK(difference(Backend::bytes_at(memory.range()), before) == "");
  must(other->synchronize(patience()));

  must(other->wait(*good));
  must(other->synchronize(patience()));
  must(other->wait(*bad));
  must(other->copy_from_host(memory.range(), after.data()));
  CHECK_FALSE(other->synchronize(patience()));
  CHECK(difference(Backend::bytes_at(memory.range()), before) == "");
}

/// Where an error loses the whole device: every call answers with the first error, at once, and says what to do.
template <class Backend>
void fence_contract(Backend& backend, device::Stream& stream, device::Allocation& memory, std::mt19937_64& random) {
  auto& device = backend.device();
  auto& healthy = backend.device(1);
  const auto bytes = memory.range().bytes;
  const RegisteredBytes source(bytes, healthy, random);
  auto idle = must(device.make_stream()), other = must(healthy.make_stream());
  auto elsewhere = must(healthy.allocate(bytes));
  auto bad = must(device.make_event()), of_other = must(healthy.make_event());
  must(stream.copy_from_host(memory.range(), source.data()));
  must(backend.queue_failure(stream));
  static_cast<void>(stream.record(*bad));  // may be told of the failure already
  const auto first = stream.synchronize(patience());
  REQUIRE_FALSE(first);
  CHECK(first.error().kind == ErrorKind::unavailable);
  CHECK(first.error().sentence.find(device.identity().uuid) == 0);
  CHECK(first.error().sentence.find("restart") != std::string::npos);

  const auto refuses = [&](const auto& outcome) {
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().kind == ErrorKind::unavailable);
    CHECK(outcome.error().sentence == first.error().sentence);
  };
  for (auto* each : {&stream, idle.get()}) {
    refuses(each->copy_from_host(memory.range(), source.data()));
    refuses(each->copy(memory.range().part(0, 10), memory.range().part(20, 10)));
    refuses(each->synchronize(patience()));
  }
  refuses(device.allocate(4096));
  refuses(device.free_bytes());
  refuses(device.make_stream());
  refuses(device.make_event());
  refuses(memory.export_to_processes());
  CHECK(bad->reached());
  refuses(bad->wait(patience()));
  refuses(other->wait(*bad));

  must(other->copy_from_host(elsewhere->range(), source.data()));
  must(other->record(*of_other));
  refuses(idle->wait(*of_other));
  must(other->synchronize(patience()));
  CHECK(difference(Backend::bytes_at(elsewhere->range()), *source) == "");
}

template <class Backend>
void stream_contract() {
  Backend backend;
  auto& device = backend.device();
  std::mt19937_64 random(seed_of_run());
  constexpr std::size_t kBytes = 50'000;
  auto memory = must(device.allocate(kBytes));
  auto stream = must(device.make_stream());
  const auto draw = [&](std::size_t below) { return static_cast<std::size_t>(random() % below); };

  SECTION("work on one stream runs in its order") {
    Bytes expected = random_bytes(kBytes, random);
    const RegisteredBytes first(device, expected), pinned(kBytes, device, random);
    const Bytes& source = *pinned;
    must(stream->copy_from_host(memory->range(), first.data()));
    for (int i = 0; i < 300; ++i) {
      const std::size_t length = draw(kBytes / 2), to = draw(kBytes - length), from = draw(kBytes - length);
      const auto target = memory->range().part(to, length);
      if (draw(2) == 0) {
        must(stream->copy_from_host(target, source.data() + from));
        std::copy_n(source.begin() + static_cast<long>(from), length, expected.begin() + static_cast<long>(to));
      } else if (from + length <= to || to + length <= from) {
        must(stream->copy(target, memory->range().part(from, length)));
        std::copy_n(expected.begin() + static_cast<long>(from), length, expected.begin() + static_cast<long>(to));
      }
    }
    must(stream->synchronize(patience()));
    CHECK(difference(Backend::bytes_at(memory->range()), expected) == "");
  }
  SECTION("copies go between devices") {
    auto other = must(backend.device(1).allocate(kBytes));
    const Bytes bytes = random_bytes(kBytes, random);
    must(stream->copy_from_host(memory->range(), bytes.data()));
    must(stream->copy(other->range(), memory->range()));
    must(stream->synchronize(patience()));
    CHECK(difference(Backend::bytes_at(other->range()), bytes) == "");
  }
  SECTION("empty copies are no work, wherever they point") {
    must(stream->copy_from_host({0, 0}, nullptr));
    must(stream->copy({0, 0}, {0, 0}));
    must(stream->copy(memory->range().part(kBytes, 0), {1, 0}));
    must(stream->synchronize(patience()));
  }
  SECTION("a copy between unequal sizes is refused and changes nothing") {
    auto refused = stream->copy(memory->range().part(0, 10), memory->range().part(10, 11));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::invalid_argument);
    must(stream->synchronize(patience()));
  }
  SECTION("queuing does not wait for the work, and deadlines of waits hold") {
    const RegisteredBytes pinned(100, device, random);
    const Bytes& bytes = *pinned;
    HeldStream<Backend> held(device);
    for (int i = 0; i < Backend::kQueued; ++i) must(held->copy_from_host(memory->range().part(0, 100), bytes.data()));
    auto late = held->synchronize(Deadline::in(20ms));
    REQUIRE_FALSE(late);
    CHECK(late.error().kind == ErrorKind::timed_out);
    CHECK_FALSE(held->synchronize(Deadline::in(-1s)));
    held.release();
    must(held->synchronize(patience()));
    CHECK(difference(Backend::bytes_at(memory->range().part(0, 100)), bytes) == "");
    must(held->synchronize(Deadline::in(-1s)));
  }
  if constexpr (Backend::kFailure == Failure::of_device) {
    SECTION("a failure fences its device, and no other") { fence_contract(backend, *stream, *memory, random); }
  }
  if constexpr (Backend::kFailure == Failure::of_stream) {
    SECTION("a failure stays on its stream, leaves later copies out and reaches no other stream") {
      failed_stream_contract(backend, *stream, *memory, random);
    }
  }
  SECTION("a waker wakes after the work, again and again, and also when the work failed") {
    auto waker = must(Waker::create());
    const auto woken = [&] {
      pollfd entry{waker.fd(), POLLIN, 0};
      const bool in_time = ::poll(&entry, 1, 60'000) == 1;
      waker.drain();
      return in_time;
    };
    for (int i = 0; i < 20; ++i) {
      const Bytes bytes = random_bytes(1000, random);
      must(stream->copy_from_host(memory->range().part(0, 1000), bytes.data()));
      must(stream->wake_when_done(waker));
      REQUIRE(woken());
      REQUIRE(difference(Backend::bytes_at(memory->range().part(0, 1000)), bytes) == "");
    }
    if constexpr (Backend::kFailure != Failure::cannot_be_caused) {
      must(backend.queue_failure(*stream));
      must(stream->wake_when_done(waker));
      CHECK(woken());
      CHECK_FALSE(stream->synchronize(patience()));
      must(stream->wake_when_done(waker));
      CHECK(woken());
    }
  }
  SECTION("destroying a stream waits for its work") {
    for (int round = 0; round < 20; ++round) {
      const RegisteredBytes pinned(kBytes, device, random);
      const Bytes& bytes = *pinned;
      auto event = must(device.make_event());
      auto short_lived = must(device.make_stream());
      for (std::size_t at = 0; at < kBytes; at += 1000)
        must(short_lived->copy_from_host(memory->range().part(at, 1000), bytes.data() + at));
      must(short_lived->record(*event));
      short_lived.reset();
      REQUIRE(event->reached());
      REQUIRE(event->wait(Deadline::in(-1s)));
      REQUIRE(difference(Backend::bytes_at(memory->range()), bytes) == "");
    }
  }
}

template <class Backend>
void event_contract() {
  Backend backend;
  auto& device = backend.device();
  std::mt19937_64 random(seed_of_run());
  auto event = must(device.make_event());
  auto stream = must(device.make_stream());

  SECTION("an event that was never recorded counts as reached") {
    CHECK(event->reached());
    must(event->wait(Deadline::in(-1s)));
    must(stream->wait(*event));
    must(stream->synchronize(patience()));
  }
  SECTION("an event is reached with the work before it, and record re-arms it") {
    must(stream->record(*event));
    must(event->wait(patience()));
    HeldStream<Backend> held(device);
    must(held->record(*event));
    CHECK_FALSE(event->reached());
    auto late = event->wait(Deadline::in(20ms));
    REQUIRE_FALSE(late);
    CHECK(late.error().kind == ErrorKind::timed_out);
    held.release();
    must(event->wait(patience()));
    CHECK(event->reached());
  }
  SECTION("an event tells when it was reached, if its device can") {
    constexpr std::size_t kBytes = 100'000;
    auto memory = must(device.allocate(kBytes));
    const RegisteredBytes bytes(kBytes, device, random);
    auto later = must(device.make_event());
    CHECK_FALSE(event->reached_at());
    HeldStream<Backend> held(device);
    must(held->copy_from_host(memory->range(), bytes.data()));
    must(held->record(*event));
    must(held->copy_from_host(memory->range(), bytes.data()));
    must(held->record(*later));
    CHECK_FALSE(event->reached_at());
    const auto before = Clock::now();
    held.release();
    must(later->wait(patience()));
    const auto after = Clock::now();
    if (event->reached_at()) {  // who asks late is told no later time
      CHECK(*event->reached_at() >= before - Backend::kClockError);
      CHECK(*event->reached_at() <= later->reached_at().value());
      CHECK(*later->reached_at() <= after + Backend::kClockError);
      std::this_thread::sleep_for(2ms);
      CHECK(*later->reached_at() <= after + Backend::kClockError);
    }
    HeldStream<Backend> again(device);
    must(again->record(*event));
    CHECK_FALSE(event->reached_at());
  }
  SECTION("a stream waits for the record that was the last one when it was told to wait") {
    // A wait for the later record would close a circle: `second` records it after waiting for `first`.
    HeldStream<Backend> held(device);
    auto between = must(device.make_event());
    auto first = must(device.make_stream()), second = must(device.make_stream());
    must(held->record(*event));
    must(first->wait(*event));
    must(first->record(*between));
    must(second->wait(*between));
    must(second->record(*event));
    held.release();
    CHECK(first->synchronize(patience()));
    CHECK(second->synchronize(patience()));
    CHECK(event->wait(patience()));
  }
  SECTION("an event outlives the stream that recorded it, and a wait outlives the event") {
    auto recording = must(device.make_stream());
    must(recording->record(*event));
    must(stream->wait(*event));
    event.reset();
    recording.reset();
    must(stream->synchronize(patience()));
  }
  SECTION("a chain of events across streams of two devices orders everything") {
    constexpr std::size_t kBytes = 2'000;
    auto memory = must(device.allocate(kBytes));
    std::vector<std::unique_ptr<device::Stream>> streams;
    for (unsigned i = 0; i < 4; ++i) streams.push_back(must(backend.device(i % 2).make_stream()));
    std::vector<RegisteredBytes> sources;
    for (int i = 0; i < 300; ++i) sources.emplace_back(kBytes, device, random);
    Bytes expected = *sources.front();  // new memory holds anything
    must(streams.front()->copy_from_host(memory->range(), expected.data()));
    must(streams.front()->synchronize(patience()));
    std::vector<std::unique_ptr<device::Event>> events;
    for (const auto& source : sources) {
      auto& next = *streams[random() % streams.size()];
      if (!events.empty()) must(next.wait(*events.back()));
      const std::size_t at = random() % kBytes, length = kBytes - at;
      must(next.copy_from_host(memory->range().part(at, length), source.data()));
      std::copy_n((*source).begin(), length, expected.begin() + static_cast<long>(at));
      // Few events, recorded again and again, as a pipeline does with its slots.
      if (events.size() < 3)
        events.push_back(must(device.make_event()));
      else
        std::rotate(events.begin(), events.begin() + 1, events.end());
      must(next.record(*events.back()));
    }
    must(events.back()->wait(patience()));
    CHECK(difference(Backend::bytes_at(memory->range()), expected) == "");
  }
  SECTION("lanes in threads of their own do not disturb each other") {
    std::vector<std::thread> lanes;
    std::vector<std::string> outcomes(4, "did not run");
    for (unsigned lane = 0; lane < 4; ++lane)
      lanes.emplace_back([&, lane] {
        std::mt19937_64 own(seed_of_run() + lane);
        const auto run = [&]() -> Result<> {
          auto& mine = backend.device(lane % 2);
          for (int round = 0; round < 10; ++round) {
            auto memory = CKPTD_TRY(mine.allocate(5'000));
            auto up = CKPTD_TRY(mine.make_stream()), across = CKPTD_TRY(mine.make_stream());
            auto done = CKPTD_TRY(mine.make_event());
            const Bytes bytes = random_bytes(2'500, own);
            CKPTD_TRY(up->copy_from_host(memory->range().part(0, 2'500), bytes.data()));
            CKPTD_TRY(up->record(*done));
            CKPTD_TRY(across->wait(*done));
            CKPTD_TRY(across->copy(memory->range().part(2'500, 2'500), memory->range().part(0, 2'500)));
            CKPTD_TRY(across->synchronize(patience()));
            if (Backend::bytes_at(memory->range().part(2'500, 2'500)) != bytes) return fail(ErrorKind::corrupt, "wrong bytes");
          }
          return {};
        };
        const auto outcome = run();
        outcomes[lane] = outcome ? "" : outcome.error().sentence;
      });
    for (auto& lane : lanes) lane.join();
    CHECK(outcomes == std::vector<std::string>(4));
  }
}

}  // namespace ckptd::tests
