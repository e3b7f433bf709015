#include "daemon/catalogue/fold.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <set>

#include "common/units.h"
#include "tests/support/fake_system_root.h"

using namespace ckptd;
using namespace ckptd::catalogue;

namespace {

constexpr std::uint64_t kSegment = 256 * kKiB;

/// What a tensor consists of: equal seeds and sizes are equal bytes.
struct Part {
  std::uint64_t seed = 0, bytes = 0;
};
using Parts = std::vector<Part>;

std::vector<std::byte> bytes_of(const Part& part) {
  std::vector<std::byte> bytes(part.bytes);
  std::mt19937_64 random(part.seed);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i % 8 == 0 ? random() : i * part.seed);
  return bytes;
}

weights::Digest digest_of(std::span<const std::byte> bytes) {
  const auto piece = weights::digest_of(bytes);
  return weights::combine_pieces({&piece, 1});
}

struct Setup {
  test::FakeSystemRoot root;
  std::unique_ptr<store::Store> store;  // outlives all contents

  explicit Setup(std::uint64_t segments = 64) {
    store = *store::Store::create({.budget_bytes = segments * kSegment, .segment_bytes = kSegment,
                                   .lock = store::LockPolicy::off, .system_root = root.path()},
                                  {});
  }
  std::uint64_t lent() const { return store->usage().lent_bytes / kSegment; }

  /// As a load leaves it: one file, its tensors in a row after a header.
  Contents load(const Parts& parts, std::uint64_t header = 100) const {
    weights::Manifest manifest;
    std::uint64_t at = header;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      manifest.tensors.push_back({fmt::format("t{}", i), weights::Dtype::u8, {parts[i].bytes}, {0, at, parts[i].bytes}});
      at += parts[i].bytes;
    }
    manifest.files.push_back({"/w", at, header, "s"});
    weights::Layout layout(manifest, kSegment);
    Contents contents{.manifest = manifest, .layout = layout, .tensor_digests = {}, .schema = {}, .identity = {},
                      .source_stamp = {}, .source_uri = "file:///w",
                      .memory = hold(store->reserve(layout.segment_count()).value(), layout)};
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto bytes = bytes_of(parts[i]);
      contents.tensor_digests.push_back(digest_of(bytes));
      auto rest = layout.resting_offset(manifest.tensors[i].extent);
      for (std::uint64_t done = 0; done < bytes.size();) {
        const auto place = layout.place(rest + done);
        const auto step = std::min<std::uint64_t>(place.bytes, bytes.size() - done);
        std::copy_n(bytes.data() + done, step, contents.memory[place.segment].segment->memory.data() + place.offset);
        done += step;
      }
    }
    return contents;
  }
};

/// Every tensor has its bytes, as an upload would read them.
bool is_whole(const Contents& contents) {
  for (std::size_t i = 0; i < contents.manifest.tensors.size(); ++i) {
    const auto& extent = contents.manifest.tensors[i].extent;
    std::vector<std::byte> bytes;
    while (bytes.size() < extent.bytes) {
      const auto part = contents.resting(contents.layout.resting_offset(extent) + bytes.size(), extent.bytes - bytes.size());
      if (part.empty()) return false;
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    if (digest_of(bytes) != contents.tensor_digests[i]) return false;
  }
  return true;
}

bool fold(Contents& arrived, const std::vector<const Contents*>& resident) {
  auto planned = plan_fold(arrived, resident);
  if (!planned) return false;
  REQUIRE(carry_out(*std::move(planned), arrived, {}));
  return true;
}

Parts parts(std::initializer_list<std::uint64_t> seeds, std::uint64_t bytes = 128 * kKiB) {
  Parts parts;
  for (auto seed : seeds) parts.push_back({seed, bytes});
  return parts;
}

}  // namespace

TEST_CASE("the same bytes under another name cost nothing, and either may leave first") {
  const bool first_leaves_first = GENERATE(true, false);
  Setup setup;
  auto first = std::make_unique<Contents>(setup.load(parts({1, 2, 3, 4, 5, 6, 7})));
  const auto alone = setup.lent();
  auto second = std::make_unique<Contents>(setup.load(parts({7, 1, 2, 3, 4, 5, 6}), 4321));  // in another order
  CHECK(setup.lent() == 2 * alone);
  REQUIRE(fold(*second, {first.get()}));
  CHECK(setup.lent() == alone);
  CHECK(is_whole(*first));
  CHECK(is_whole(*second));
  (first_leaves_first ? first : second).reset();
  CHECK(setup.lent() == alone);
  const auto other = setup.store->reserve(8).value();  // what is free now is written over
  for (const auto* segment : other.segments()) std::ranges::fill(segment->memory, std::byte{0xee});
  CHECK(is_whole(first_leaves_first ? *second : *first));
  (first_leaves_first ? second : first).reset();
  CHECK(setup.lent() == 8);
}

TEST_CASE("versions that differ in part share the rest") {
  struct Row {
    std::string name;
    Parts first, second;
    std::uint64_t freed;  ///< of the second's four segments
  };
  const auto row = GENERATE(values<Row>({
      {"a frozen first half", parts({1, 2, 3, 4, 5, 6, 7}), parts({1, 2, 3, 4, 15, 16, 17}), 2},
      {"a frozen second half", parts({1, 2, 3, 4, 5, 6, 7}), parts({11, 12, 13, 4, 5, 6, 7}), 2},
      {"every fourth differs", parts({1, 2, 3, 4, 5, 6, 7}), parts({1, 2, 3, 14, 5, 6, 7}), 3},
      {"nothing in common", parts({1, 2, 3, 4, 5, 6, 7}), parts({11, 12, 13, 14, 15, 16, 17}), 0},
      {"one in common, which frees no segment", parts({1, 2, 3, 4, 5, 6, 7, 8}), parts({1, 12, 13, 14, 15, 16, 17, 18}), 0},
      {"one in common, which frees one", parts({1, 2, 3, 4, 5, 6, 7}), parts({1, 12, 13, 14, 15, 16, 17}), 1},
      {"half of each segment", parts({1, 2, 3, 4, 5, 6, 7, 8}), parts({1, 12, 3, 14, 5, 16, 7, 18}), 2},
      {"a third of each segment pins more than it saves", parts({1, 2, 3, 4, 5, 6, 7, 8}, 85 * kKiB),
       parts({1, 12, 13, 4, 15, 16, 7, 18, 19, 20, 21, 22}, 85 * kKiB), 0},
      {"equal sizes of other bytes", {{1, 900 * kKiB}}, {{2, 900 * kKiB}}, 0},
      {"tied tensors", {{1, 900 * kKiB}}, {{1, 900 * kKiB}, {1, 900 * kKiB}}, 8},
  }));
  INFO(row.name);
  Setup setup;
  auto first = setup.load(row.first, 4096);
  auto second = setup.load(row.second, 4096);
  const auto before = setup.lent();
  CHECK(fold(second, {&first}) == (row.freed > 0));
  CHECK(setup.lent() == before - row.freed);
  CHECK(is_whole(first));
  CHECK(is_whole(second));
}

TEST_CASE("a fold that is planned keeps what it refers to") {
  Setup setup;
  auto first = std::make_unique<Contents>(setup.load(parts({1, 2, 3, 4})));
  auto second = setup.load(parts({1, 2, 3, 4}));
  auto planned = plan_fold(second, std::vector<const Contents*>{first.get()});
  REQUIRE(planned);
  first.reset();
  { const auto other = setup.store->reserve(8).value(); }
  REQUIRE(carry_out(*std::move(planned), second, {}));
  CHECK(is_whole(second));
}

TEST_CASE("a fold is cancelled between two copies") {
  Setup setup;
  auto first = setup.load(parts({1, 2, 3, 4, 5, 6, 7}));
  auto second = setup.load(parts({1, 2, 3, 4, 15, 16, 17}));
  auto planned = plan_fold(second, std::vector<const Contents*>{&first});
  REQUIRE(planned);
  std::stop_source stop;
  stop.request_stop();
  const auto cancelled = carry_out(*std::move(planned), second, stop.get_token());
  REQUIRE_FALSE(cancelled);
  CHECK(cancelled.error().kind == ErrorKind::cancelled);
  CHECK(is_whole(first));
}

TEST_CASE("versions that come, share and go in any order keep their bytes, and pin at most twice of them") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  Setup setup(400);
  Parts pool;
  for (std::uint64_t i = 1; i <= 40; ++i) pool.push_back({i, 4 * kKiB + random() % (300 * kKiB)});

  std::vector<std::unique_ptr<Contents>> resident;
  for (int round = 0; round < 40; ++round) {
    Parts wanted;
    std::uint64_t bytes = 0;
    for (const auto& part : pool) {
      const auto draw = random() % 10;
      if (draw < 6) wanted.push_back(part);
      if (draw == 9) wanted.push_back({1000 + random(), part.bytes});
    }
    if (random() % 3 == 0) std::ranges::shuffle(wanted, random);
    for (const auto& part : wanted) bytes += part.bytes;
    auto arrived = std::make_unique<Contents>(setup.load(wanted, random() % 9000));
    std::vector<const Contents*> others;
    for (const auto& each : resident) others.push_back(each.get());
    fold(*arrived, others);
    // Fresh segments hold others' bytes after a while: what is free must not matter to anybody.
    { const auto scratch = setup.store->reserve(6).value();
      for (const auto* segment : scratch.segments()) std::ranges::fill(segment->memory, std::byte{0xee}); }
    resident.push_back(std::move(arrived));
    CHECK(resident.back()->memory.size() * kSegment <= 2 * bytes + (resident.size() + 1) * kSegment);
    if (resident.size() > 5) resident.erase(resident.begin() + static_cast<long>(random() % resident.size()));
    std::set<const store::Segment*> held;
    for (const auto& each : resident) {
      REQUIRE(is_whole(*each));
      for (const auto& segment : each->memory) held.insert(segment.segment.get());
    }
    REQUIRE(setup.lent() == held.size());
  }
  resident.clear();
  CHECK(setup.lent() == 0);
}
