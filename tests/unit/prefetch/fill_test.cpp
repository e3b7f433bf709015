#include <catch2/catch.hpp>
#include <condition_variable>
#include <functional>
#include <mutex>

#include "daemon/prefetch/identify.h"
#include "daemon/prefetch/prefetch.h"
#include "tests/unit/prefetch/filled_memory.h"
#include "tests/unit/prefetch/memory_source.h"
#include "tests/support/fake_system_root.h"
#include "tests/support/log_listener.h"

using namespace ckptd;
using namespace ckptd::prefetch;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using test::digests_one_by_one;
using test::FilledMemory;
using test::LogListener;
using test::MemorySource;
using test::one_tensor;
using weights::kBlockBytes;

namespace {

/// A gate that reads wait at until it opens.
class Gate {
 public:
  void open() {
    std::scoped_lock lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

}  // namespace

TEST_CASE("bytes and digests are those that one thread would get, whatever the sizes") {
  const auto seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 30; ++round) {
    INFO("seed " << seed << ", round " << round);
    auto source = test::random_source(random, 10 << 20);
    auto total = weights::Layout(source.manifest(), kBlockBytes).total_bytes();
    auto fewest_blocks = total / kBlockBytes / 200 + 1;  // each segment takes a file descriptor
    FilledMemory memory(source, kBlockBytes * (fewest_blocks + random() % 5));
    auto pause_seed = random();
    source.fault = [&](int read, std::uint32_t, std::uint64_t) -> Result<> {
      if ((static_cast<unsigned>(read) * 2654435761U + pause_seed) % 7 == 0) std::this_thread::sleep_for(200us);
      return {};
    };
    Options options{.readers = static_cast<unsigned>(random() % 5), .hashers = static_cast<unsigned>(random() % 4),
                    .read_bytes = total / 300 + random() % 60'000};
    Progress progress;
    auto filled = fill(source, memory.layout, memory.reservation, options, progress, {});
    REQUIRE(filled);
    CHECK(source.misaligned == 0);
    CHECK(source.under_way == 0);
    REQUIRE(filled->tensor_digests == digests_one_by_one(source));
    CHECK(progress.hashed_bytes == source.manifest().tensor_bytes());
    CHECK(filled->read_bytes == progress.read_bytes);

    REQUIRE(memory.differing_blocks(source) == 0);
    CHECK(filled->read_bytes == memory.file_bytes(source));
  }
}

TEST_CASE("a version without a tensor or without a file is filled at once") {
  MemorySource nothing({}, {});
  FilledMemory memory(nothing, kBlockBytes);
  Progress progress;
  auto filled = fill(nothing, memory.layout, memory.reservation, {}, progress, {});
  REQUIRE(filled);
  CHECK(filled->tensor_digests.empty());

  auto empty_tensor = one_tensor(0);
  FilledMemory some(empty_tensor, kBlockBytes);
  filled = fill(empty_tensor, some.layout, some.reservation, {}, progress, {});
  REQUIRE(filled);
  CHECK(filled->tensor_digests == std::vector{weights::combine_pieces({})});
}

TEST_CASE("the first error at any place ends everybody and is the answer") {
  const auto seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 30; ++round) {
    INFO("seed " << seed << ", round " << round);
    auto source = one_tensor(100 * kBlockBytes);
    FilledMemory memory(source, 3 * kBlockBytes);
    const auto at = static_cast<int>(random() % 100);
    source.fault = [&](int read, std::uint32_t, std::uint64_t) -> Result<> {
      if (read == at) return fail(ErrorKind::io, "the disk is on fire");
      return {};
    };
    Progress progress;
    Options options{.readers = round % 2 == 0 ? 1U : 3U, .hashers = 2, .read_bytes = kBlockBytes};
    auto filled = fill(source, memory.layout, memory.reservation, options, progress, {});
    REQUIRE_FALSE(filled);
    if (options.readers == 1) CHECK(source.reads == at + 1);
    CHECK(filled.error().kind == ErrorKind::io);
    CHECK(filled.error().sentence == "the disk is on fire");
    CHECK(source.under_way == 0);
  }
}

TEST_CASE("an exception from a source is an error, not the end of the process") {
  auto source = one_tensor(10 * kBlockBytes);
  FilledMemory memory(source, kBlockBytes);
  source.fault = [](int read, std::uint32_t, std::uint64_t) -> Result<> {
    if (read == 3) throw std::runtime_error("surprise");
    return {};
  };
  Progress progress;
  auto filled = fill(source, memory.layout, memory.reservation, {.read_bytes = kBlockBytes}, progress, {});
  REQUIRE_FALSE(filled);
  CHECK(filled.error().kind == ErrorKind::internal);
  CHECK_THAT(filled.error().sentence, Contains("surprise"));
}

TEST_CASE("a file that became shorter or longer is corrupt, named with the byte") {
  auto source = one_tensor(5 * kBlockBytes);
  FilledMemory memory(source, 2 * kBlockBytes);
  Progress progress;
  source.resize_last_read = GENERATE(-1, 1, -5000);
  auto filled = fill(source, memory.layout, memory.reservation, {.read_bytes = kBlockBytes}, progress, {});
  REQUIRE_FALSE(filled);
  CHECK(filled.error().kind == ErrorKind::corrupt);
  CHECK_THAT(filled.error().sentence, Contains("/w/a.safetensors") && Contains("byte"));
}

TEST_CASE("a file that was changed while it was read is corrupt") {
  auto source = one_tensor(5 * kBlockBytes);
  source.changed = true;
  FilledMemory memory(source, kBlockBytes);
  Progress progress;
  auto filled = fill(source, memory.layout, memory.reservation, {}, progress, {});
  REQUIRE_FALSE(filled);
  CHECK(filled.error().kind == ErrorKind::corrupt);
}

TEST_CASE("a stop request ends the load within the blocks that are being read") {
  auto source = one_tensor(200 * kBlockBytes);
  FilledMemory memory(source, 4 * kBlockBytes);
  Progress progress;
  std::stop_source stop;
  Gate stopped;
  int reads_at_most = 0;
  SECTION("before the start, nothing is read") { stop.request_stop(); }
  SECTION("in the middle, each of the other readers ends the one that it has begun") {
    source.fault = [&](int read, std::uint32_t, std::uint64_t) -> Result<> {
      if (read == 50) {
        stop.request_stop();
        stopped.open();
      }
      if (read > 50) stopped.wait();
      return {};
    };
    reads_at_most = 51 + 2;
  }
  Options options{.readers = 3, .hashers = 1, .read_bytes = kBlockBytes};
  auto filled = fill(source, memory.layout, memory.reservation, options, progress, stop.get_token());
  REQUIRE_FALSE(filled);
  CHECK(filled.error().kind == ErrorKind::cancelled);
  CHECK(source.reads <= reads_at_most);
  CHECK(source.under_way == 0);
}

TEST_CASE("a read that hangs is reported while it hangs, by file and offset, and fill waits until it is over") {
  const bool cancel_meanwhile = GENERATE(false, true);
  // A reader that is held up as long in another block is reported as well: then once more with more patience.
  const auto hangs_for = [&](std::chrono::milliseconds no_progress) {
    auto source = one_tensor(8 * kBlockBytes);
    FilledMemory memory(source, 4 * kBlockBytes);
    Gate gate;
    std::stop_source stop;
    std::atomic<bool> returned = false, returned_too_early = false;
    source.fault = [&](int, std::uint32_t, std::uint64_t offset) -> Result<> {
      if (offset != 3 * kBlockBytes) return {};
      if (cancel_meanwhile) stop.request_stop();
      gate.wait();
      returned_too_early = returned.load();
      return {};
    };
    std::string first_report;  // written and read by the thread in fill()
    LogListener listener([&](std::string_view text) {
      if (first_report.empty()) first_report = text;
      gate.open();
    });
    Progress progress;
    Options options{.readers = 2, .hashers = 1, .read_bytes = kBlockBytes, .no_progress = no_progress};
    auto filled = fill(source, memory.layout, memory.reservation, options, progress, stop.get_token());
    returned = true;
    REQUIRE_FALSE(filled);
    CHECK_FALSE(returned_too_early);
    CHECK(source.under_way == 0);
    if (first_report.find("byte 12288") == std::string::npos && no_progress < 5s) return false;
    CHECK_THAT(first_report, Contains("/w/a.safetensors") && Contains("byte 12288"));
    if (cancel_meanwhile) {
      CHECK(filled.error().kind == ErrorKind::cancelled);
      CHECK_THAT(first_report, Contains("still waiting"));
    } else {
      CHECK(filled.error().kind == ErrorKind::timed_out);
      CHECK_THAT(filled.error().sentence, Contains("/w/a.safetensors") && Contains("byte 12288"));
    }
    return true;
  };
  (void)(hangs_for(30ms) || hangs_for(1s) || hangs_for(5s));
}

TEST_CASE("memory that is too small or cut otherwise is our own mistake, not a crash") {
  auto source = one_tensor(8 * kBlockBytes);
  FilledMemory memory(source, 4 * kBlockBytes);
  Progress progress;
  auto too_few = fill(source, memory.layout, {}, {}, progress, {});
  REQUIRE_FALSE(too_few);
  CHECK(too_few.error().kind == ErrorKind::internal);
  weights::Layout other_layout(source.manifest(), 5 * kBlockBytes);
  auto other_cut = fill(source, other_layout, memory.reservation, {}, progress, {});
  REQUIRE_FALSE(other_cut);
  CHECK(other_cut.error().kind == ErrorKind::internal);
  CHECK(source.reads == 0);
}

TEST_CASE("identify() finds the digests that fill() finds, and keeps nothing") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 10; ++round) {
    auto source = test::random_source(random, 10 << 20);
    std::atomic<std::uint64_t> read_bytes = 0;
    auto digests = identify(source, read_bytes, {});
    REQUIRE(digests);
    REQUIRE(*digests == digests_one_by_one(source));
    CHECK(read_bytes == source.manifest().tensor_bytes());
  }
}

TEST_CASE("identify() ends with the source's error, with a change, and with a stop request") {
  auto source = one_tensor(5 << 20);
  std::atomic<std::uint64_t> read_bytes = 0;
  std::stop_source stop;
  SECTION("a read fails") {
    source.fault = [](int read, std::uint32_t, std::uint64_t) -> Result<> {
      if (read == 1) return fail(ErrorKind::io, "the disk is gone");
      return {};
    };
    CHECK(identify(source, read_bytes, {}).error().kind == ErrorKind::io);
  }
  SECTION("a file became shorter") {
    source.resize_last_read = -1;
    auto digests = identify(source, read_bytes, {});
    REQUIRE_FALSE(digests);
    CHECK(digests.error().kind == ErrorKind::corrupt);
    CHECK(digests.error().sentence.find("a.safetensors") != std::string::npos);
  }
  SECTION("a file changed") {
    source.changed = true;
    CHECK(identify(source, read_bytes, {}).error().kind == ErrorKind::corrupt);
  }
  SECTION("stopped between two pieces") {
    source.fault = [&](int, std::uint32_t, std::uint64_t) -> Result<> {
      stop.request_stop();
      return {};
    };
    CHECK(identify(source, read_bytes, stop.get_token()).error().kind == ErrorKind::cancelled);
    CHECK(read_bytes == weights::kDigestPieceBytes);
  }
}
