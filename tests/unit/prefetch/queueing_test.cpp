// fill() over readers that have many reads under way.
#include <catch2/catch.hpp>
#include <cstdlib>

#include "daemon/prefetch/prefetch.h"
#include "tests/unit/prefetch/filled_memory.h"
#include "tests/unit/prefetch/memory_source.h"
#include "tests/unit/prefetch/shuffling_reader.h"

using namespace ckptd;
using namespace ckptd::prefetch;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using test::FilledMemory;
using test::MemorySource;
using test::ShufflingReader;
using weights::kBlockBytes;

namespace {

unsigned seed_of_run() {
  const char* given = std::getenv("CKPTD_TEST_SEED");
  return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
}

/// Gives the source shuffling readers; `depth` 0: what fill() wishes.
void shuffle(MemorySource& source, ShufflingReader::Shared& shared, unsigned seed, unsigned depth = 0) {
  source.reader = [&source, &shared, seed, depth, made = 0U](const source::ReaderOptions& options) mutable {
    return std::make_unique<ShufflingReader>(source, depth != 0 ? depth : options.depth, seed + ++made, shared);
  };
}

}  // namespace

TEST_CASE("queued reads that end in any order, beside copies of what lies in memory, give the same bytes and digests") {
  const auto seed = seed_of_run();
  std::mt19937 random(seed);
  for (int round = 0; round < 40; ++round) {
    INFO("CKPTD_TEST_SEED=" << seed << ", round " << round);
    auto source = test::random_source(random, 10 << 20);
    const auto total = weights::Layout(source.manifest(), kBlockBytes).total_bytes();
    FilledMemory memory(source, kBlockBytes * (total / kBlockBytes / 200 + 1 + random() % 5));
    ShufflingReader::Shared shared;
    shuffle(source, shared, seed + static_cast<unsigned>(round));
    const auto in_memory = random() % 5;  // of four blocks
    const auto mix = random();
    source.in_memory = [=](std::uint32_t file, std::uint64_t offset) {
      return (offset / kBlockBytes * 2654435761U + file + mix) % 4 < in_memory;
    };
    Options options{.readers = static_cast<unsigned>(random() % 4), .hashers = static_cast<unsigned>(random() % 4),
                    .queue_depth = static_cast<unsigned>(1 + random() % 12), .read_bytes = total / 300 + random() % 2'000'000};
    Progress progress;
    const auto filled = fill(source, memory.layout, memory.reservation, options, progress, {});
    if (!filled) FAIL(filled.error().sentence);
    REQUIRE(filled->tensor_digests == test::digests_one_by_one(source));
    REQUIRE(memory.differing_blocks(source) == 0);
    CHECK(filled->backend == "shuffling");
    CHECK(filled->read_bytes == memory.file_bytes(source));
    CHECK(progress.hashed_bytes == source.manifest().tensor_bytes());
    CHECK((in_memory != 0 || filled->cached_bytes == 0));
    CHECK((in_memory != 4 || filled->cached_bytes == filled->read_bytes));
    CHECK(shared.under_way == 0);
    CHECK(shared.too_many == 0);
    CHECK(source.misaligned == 0);
  }
}

TEST_CASE("the first error of a queued read or of a copy ends all others, and is the answer") {
  const auto seed = seed_of_run();
  std::mt19937 random(seed);
  for (int round = 0; round < 40; ++round) {
    INFO("CKPTD_TEST_SEED=" << seed << ", round " << round);
    auto source = test::one_tensor(100 * kBlockBytes);
    FilledMemory memory(source, 3 * kBlockBytes);
    ShufflingReader::Shared shared;
    shuffle(source, shared, seed + static_cast<unsigned>(round), 5);
    source.in_memory = [copies = round % 2 == 0](std::uint32_t, std::uint64_t offset) {
      return copies && offset / kBlockBytes % 2 == 0;
    };
    const auto at = static_cast<int>(random() % 100);
    source.fault = [&](int read, std::uint32_t, std::uint64_t) -> Result<> {
      if (read != at) return {};
      if (round % 4 == 3) throw std::runtime_error("the disk is on fire");
      return fail(ErrorKind::io, "the disk is on fire");
    };
    Progress progress;
    const auto filled = fill(source, memory.layout, memory.reservation, {.readers = 2, .hashers = 1, .read_bytes = kBlockBytes},
                             progress, {});
    REQUIRE_FALSE(filled);
    CHECK(filled.error().kind == (round % 4 == 3 ? ErrorKind::internal : ErrorKind::io));
    CHECK_THAT(filled.error().sentence, Contains("the disk is on fire"));
    CHECK(shared.under_way == 0);
    CHECK(source.under_way == 0);
    CHECK(progress.read_bytes <= 100 * kBlockBytes);  // of 101, and how many depends on who is held up
  }
}

TEST_CASE("after a stop request nothing is begun, reads under way are cancelled, and none is left behind") {
  auto source = test::one_tensor(200 * kBlockBytes);
  FilledMemory memory(source, 4 * kBlockBytes);
  ShufflingReader::Shared shared;
  std::stop_source stop;
  std::atomic<bool> stopped = false;  // and everybody has been told
  shared.hangs = [&](int read) {
    if (read == 50) {
      stop.request_stop();
      stopped = true;
    }
    while (read > 50 && !stopped) std::this_thread::yield();
    return read >= 40;
  };
  shuffle(source, shared, seed_of_run(), 8);
  Progress progress;
  const auto filled = fill(source, memory.layout, memory.reservation, {.readers = 2, .hashers = 1, .read_bytes = kBlockBytes},
                           progress, stop.get_token());
  REQUIRE_FALSE(filled);
  CHECK(filled.error().kind == ErrorKind::cancelled);
  CHECK(shared.submitted <= 51 + 1);  // the other reader may be about to submit one
  CHECK(shared.under_way == 0);
}

TEST_CASE("queued reads that hang are cancelled after no_progress, and the oldest is named") {
  // Where the reader is held up as long as that before it comes to them: then once more with more patience.
  for (const auto no_progress : {200ms, 1'000ms, 5'000ms}) {
    auto source = test::one_tensor(64 * kBlockBytes);
    FilledMemory memory(source, 4 * kBlockBytes);
    ShufflingReader::Shared shared;
    shared.hangs = [](int read) { return read >= 3; };
    shuffle(source, shared, seed_of_run(), 4);
    Progress progress;
    const auto filled = fill(source, memory.layout, memory.reservation,
                             {.readers = 1, .hashers = 1, .read_bytes = kBlockBytes, .no_progress = no_progress},
                             progress, {});
    REQUIRE_FALSE(filled);
    CHECK(filled.error().kind == ErrorKind::timed_out);
    CHECK(shared.under_way == 0);
    if (filled.error().sentence.find("byte 12288") == std::string::npos && no_progress < 5s) continue;
    CHECK_THAT(filled.error().sentence, Contains("/w/a.safetensors at byte 12288"));
    break;
  }
}

TEST_CASE("a load that waits for the budget has not come to a standstill, and can be stopped there") {
  auto source = test::one_tensor(4 * kBlockBytes);
  FilledMemory memory(source, 4 * kBlockBytes);
  ShufflingReader::Shared shared;
  shuffle(source, shared, seed_of_run(), 2);
  Options options{.readers = 1, .hashers = 1, .read_bytes = kBlockBytes, .no_progress = 5s};
  Progress progress;
  std::stop_source stop;
  SECTION("it goes on when it is its turn") {
    // A reader that is held up itself is at a standstill: then once more with more patience, and a longer wait.
    for (const int seconds : {1, 4, 16}) {
      options.no_progress = seconds * 250ms;
      options.throttle = std::make_shared<Throttle>(kMiB);
      for (int i = 0; i < seconds; ++i) options.throttle->book(kMiB, Clock::now());  // by another load: a second each
      const auto filled = fill(source, memory.layout, memory.reservation, options, progress, {});
      if (!filled && filled.error().kind == ErrorKind::timed_out && seconds < 16) continue;
      if (!filled) FAIL(filled.error().sentence);
      CHECK(filled->throttle_seconds > 0);
      break;
    }
  }
  SECTION("nobody waits a day for a load that was stopped") {
    options.throttle = std::make_shared<Throttle>(kMiB);
    for (int i = 0; i < 86'400; ++i) options.throttle->book(kMiB, Clock::now());
    std::jthread stopper([&] {
      while (progress.throttle_time == 0) std::this_thread::sleep_for(1ms);
      stop.request_stop();
    });
    const auto filled = fill(source, memory.layout, memory.reservation, options, progress, stop.get_token());
    REQUIRE_FALSE(filled);
    CHECK(filled.error().kind == ErrorKind::cancelled);
    CHECK(shared.submitted == 0);
  }
}
