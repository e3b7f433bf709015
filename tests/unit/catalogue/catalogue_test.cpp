#include "daemon/catalogue/catalogue.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "common/units.h"
#include "tests/support/fake_system_root.h"

using namespace ckptd;
using namespace ckptd::catalogue;
using Catch::Matchers::Contains;
using weights::CheckpointId;

namespace {

constexpr std::uint64_t kSegment = 8 * kKiB;
const CheckpointId kId{"org/model", "3"};

weights::Digest digest(std::uint8_t value) {
  weights::Digest digest;
  digest.bytes.fill(value);
  return digest;
}

struct Setup {
  test::FakeSystemRoot root;
  std::unique_ptr<store::Store> store;  // outlives the catalogue and its leases
  Catalogue catalogue;

  explicit Setup(std::uint64_t segments = 8) {
    store::Options options{.budget_bytes = segments * kSegment, .segment_bytes = kSegment,
                           .lock = store::LockPolicy::off, .system_root = root.path()};
    auto created = store::Store::create(options, {});
    REQUIRE(created);
    store = std::move(*created);
  }

  std::uint64_t lent() const { return store->usage().lent_bytes; }

  /// One file of `file_bytes` with one tensor in all of it after 100 bytes of header.
  Contents contents(std::uint8_t identity, std::uint64_t file_bytes = 3 * kSegment - 10) const {
    weights::Manifest manifest;
    manifest.files.push_back({.path = "/w/model.safetensors", .bytes = file_bytes, .data_begin = 100, .stamp = "s"});
    manifest.tensors.push_back(
        {.name = "w", .dtype = weights::Dtype::u8, .shape = {file_bytes - 100}, .extent = {0, 100, file_bytes - 100}});
    weights::Layout layout(manifest, kSegment);
    auto memory = store->reserve(layout.segment_count());
    if (!memory) throw std::runtime_error(memory.error().sentence);
    return {.manifest = manifest, .layout = layout, .tensor_digests = {digest(identity)}, .schema = digest(200),
            .identity = digest(identity), .source_stamp = digest(201), .source_uri = "file:///w",
            .memory = hold(std::move(*memory), layout)};
  }

  void load(const CheckpointId& id, std::uint8_t identity, bool keep = false) {
    REQUIRE(catalogue.begin_load(id, "file:///w", "load-1", keep));
    REQUIRE(catalogue.finish_load(id, contents(identity)));
  }
  State state(const CheckpointId& id = kId) const { return catalogue.view(id).value().state; }

  /// Brings kId into a state by the shortest way.
  void bring_into(State wanted) {
    if (wanted == State::loading) REQUIRE(catalogue.begin_load(kId, "file:///w", "load-1", false));
    if (wanted == State::resident || wanted == State::evicted) load(kId, 1);
    if (wanted == State::evicted) REQUIRE(catalogue.evict(kId, false));
    if (wanted == State::failed) {
      REQUIRE(catalogue.begin_load(kId, "file:///w", "load-1", false));
      catalogue.fail_load(kId, {ErrorKind::corrupt, "the disk is on fire"});
    }
    REQUIRE(state() == wanted);
  }
};

std::optional<ErrorKind> kind(const Result<>& result) {
  return result ? std::nullopt : std::optional(result.error().kind);
}

std::string fact(const Error& error, std::string_view name) {
  for (const auto& [key, value] : error.facts)
    if (key == name) return value;
  return "(none)";
}

}  // namespace

TEST_CASE("each state answers each call as the table says") {
  struct Row {
    State from;
    std::optional<ErrorKind> begin, finish, lease, evict, forget, keep, unkeep;
  };
  using enum ErrorKind;
  const std::optional<ErrorKind> ok;
  const Row row = GENERATE_COPY(  //
      Row{State::loading, conflict, ok, unavailable, busy, busy, ok, ok},
      Row{State::resident, conflict, internal, ok, ok, ok, ok, ok},
      Row{State::failed, ok, internal, corrupt, conflict, ok, conflict, ok},
      Row{State::evicted, ok, internal, not_found, ok, ok, conflict, ok});
  INFO("from " << name_of(row.from));
  auto fresh = [&](auto check) {
    Setup setup;
    setup.bring_into(row.from);
    check(setup);
  };
  fresh([&](Setup& s) { CHECK(kind(s.catalogue.begin_load(kId, "file:///v", "load-2", false)) == row.begin); });
  fresh([&](Setup& s) { CHECK(kind(s.catalogue.finish_load(kId, s.contents(1))) == row.finish); });
  fresh([&](Setup& s) { CHECK(kind(s.catalogue.evict(kId, false)) == row.evict); });
  fresh([&](Setup& s) { CHECK(kind(s.catalogue.evict(kId, true)) == row.forget); });
  fresh([&](Setup& s) { CHECK(kind(s.catalogue.set_kept(kId, true)) == row.keep); });
  fresh([&](Setup& s) { CHECK(kind(s.catalogue.set_kept(kId, false)) == row.unkeep); });
  fresh([&](Setup& s) {
    auto lease = s.catalogue.lease(kId, "update-1");
    CHECK((lease ? std::nullopt : std::optional(lease.error().kind)) == row.lease);
    if (!lease) CHECK_THAT(lease.error().sentence, Contains(kId.show()));
  });
  fresh([&](Setup& s) {
    s.catalogue.fail_load(kId, {ErrorKind::io, "late"});
    CHECK(s.state() == (row.from == State::loading ? State::failed : row.from));
  });
}

TEST_CASE("a version that nobody knows is not found") {
  Setup setup;
  CHECK(kind(setup.catalogue.evict(kId, false)) == ErrorKind::not_found);
  CHECK(kind(setup.catalogue.evict(kId, true)) == ErrorKind::not_found);
  CHECK(kind(setup.catalogue.set_kept(kId, true)) == ErrorKind::not_found);
  CHECK(kind(setup.catalogue.finish_load(kId, setup.contents(1))) == ErrorKind::internal);
  CHECK(setup.lent() == 0);
  setup.catalogue.fail_load(kId, {ErrorKind::io, "late"});
  CHECK_FALSE(setup.catalogue.view(kId));
  auto lease = setup.catalogue.lease(kId, "update-1");
  REQUIRE_FALSE(lease);
  CHECK(lease.error().kind == ErrorKind::not_found);
}

TEST_CASE("errors name the job in the way") {
  Setup setup;
  setup.bring_into(State::loading);
  auto again = setup.catalogue.begin_load(kId, "file:///w", "load-2", false);
  REQUIRE_FALSE(again);
  CHECK(fact(again.error(), "job") == "load-1");
  CHECK(fact(setup.catalogue.lease(kId, "update-1").error(), "job") == "load-1");
  CHECK(fact(setup.catalogue.evict(kId, false).error(), "job") == "load-1");
}

TEST_CASE("a load that failed hands its own error to whoever wants the version") {
  Setup setup;
  setup.bring_into(State::failed);
  auto lease = setup.catalogue.lease(kId, "update-1");
  REQUIRE_FALSE(lease);
  CHECK_THAT(lease.error().sentence, Contains("the disk is on fire") && Contains("org/model@3"));
  auto view = setup.catalogue.view(kId).value();
  REQUIRE(view.error);
  CHECK(view.error->sentence == "the disk is on fire");
  CHECK(view.identity.empty());
}

TEST_CASE("eviction gives the memory back at once and keeps the identity") {
  Setup setup;
  setup.load(kId, 1);
  CHECK(setup.lent() == 3 * kSegment);
  REQUIRE(setup.catalogue.evict(kId, false));
  CHECK(setup.lent() == 0);
  auto view = setup.catalogue.view(kId).value();
  CHECK(view.state == State::evicted);
  CHECK(view.store_bytes == 0);
  CHECK(view.identity == digest(1).hex());
  CHECK(view.tensor_count == 1);
  CHECK(setup.catalogue.manifest_with_schema(digest(200)) != nullptr);
}

TEST_CASE("a leased version stays, and busy names the jobs") {
  Setup setup;
  setup.load(kId, 1);
  auto first = setup.catalogue.lease(kId, "update-7");
  auto second = setup.catalogue.lease(kId, "update-8");
  auto twice = setup.catalogue.lease(kId, "update-8");
  REQUIRE((first && second && twice));
  CHECK(setup.catalogue.view(kId)->leased_by == std::vector<std::string>{"update-7", "update-8"});
  auto busy = setup.catalogue.evict(kId, true);
  REQUIRE_FALSE(busy);
  CHECK(busy.error().kind == ErrorKind::busy);
  CHECK_THAT(busy.error().sentence, Contains("update-7") && Contains("update-8"));

  *first = Lease();
  Lease moved = std::move(*second);
  CHECK_FALSE(*second);
  CHECK(moved->identity == digest(1));
  *twice = std::move(moved);  // ends one of the two claims of update-8
  CHECK(kind(setup.catalogue.evict(kId, false)) == ErrorKind::busy);
  *twice = Lease();
  CHECK(setup.catalogue.view(kId)->leased_by.empty());
  CHECK(setup.catalogue.evict(kId, false));
  CHECK(setup.lent() == 0);
}

TEST_CASE("a lease may outlive the catalogue") {
  Setup setup;
  Lease lease;
  {
    Catalogue catalogue;
    REQUIRE(catalogue.begin_load(kId, "file:///w", "load-1", false));
    REQUIRE(catalogue.finish_load(kId, setup.contents(1)));
    lease = std::move(*catalogue.lease(kId, "update-1"));
  }
  CHECK(lease->resting(0, 1).size() == 1);
  CHECK(setup.lent() == 3 * kSegment);
  lease = Lease();
  CHECK(setup.lent() == 0);
}

TEST_CASE("a kept version is not evicted until it is released") {
  Setup setup;
  setup.load(kId, 1, true);
  CHECK(setup.catalogue.view(kId)->kept);
  auto busy = setup.catalogue.evict(kId, true);
  REQUIRE_FALSE(busy);
  CHECK(busy.error().kind == ErrorKind::busy);
  CHECK_THAT(busy.error().sentence, Contains("unkeep"));
  REQUIRE(setup.catalogue.set_kept(kId, false));
  CHECK(setup.catalogue.evict(kId, false));
  CHECK_FALSE(setup.catalogue.view(kId)->kept);
}

TEST_CASE("other bytes under a known version are a conflict with both identities") {
  Setup setup;
  setup.load(kId, 1);
  REQUIRE(setup.catalogue.evict(kId, false));
  REQUIRE(setup.catalogue.begin_load(kId, "file:///other", "load-2", false));
  auto conflict = setup.catalogue.finish_load(kId, setup.contents(2));
  REQUIRE_FALSE(conflict);
  CHECK(conflict.error().kind == ErrorKind::conflict);
  CHECK(fact(conflict.error(), "resident_identity") == digest(1).hex());
  CHECK(fact(conflict.error(), "found_identity") == digest(2).hex());
  CHECK_THAT(conflict.error().sentence, Contains(digest(1).hex()) && Contains(digest(2).hex()) && Contains("--forget"));
  CHECK(setup.lent() == 0);
  CHECK(setup.state() == State::failed);
  CHECK(setup.catalogue.view(kId)->identity == digest(1).hex());

  SECTION("the right bytes may still be loaded") {
    REQUIRE(setup.catalogue.begin_load(kId, "file:///w", "load-3", false));
    CHECK(setup.catalogue.finish_load(kId, setup.contents(1)));
    CHECK(setup.state() == State::resident);
  }
  SECTION("a failed load in between does not make it forget") {
    REQUIRE(setup.catalogue.begin_load(kId, "file:///w", "load-3", false));
    setup.catalogue.fail_load(kId, {ErrorKind::cancelled, "no"});
    REQUIRE(setup.catalogue.begin_load(kId, "file:///w", "load-4", false));
    CHECK_FALSE(setup.catalogue.finish_load(kId, setup.contents(2)));
  }
  SECTION("forgetting makes room for other bytes") {
    REQUIRE(setup.catalogue.evict(kId, true));
    CHECK_FALSE(setup.catalogue.view(kId));
    CHECK(setup.catalogue.manifest_with_schema(digest(200)) == nullptr);
    REQUIRE(setup.catalogue.begin_load(kId, "file:///other", "load-3", false));
    CHECK(setup.catalogue.finish_load(kId, setup.contents(2)));
  }
}

TEST_CASE("views show what is known, in the order of ids") {
  Setup setup;
  const CheckpointId other{"a", "1"};
  setup.load(kId, 1);
  REQUIRE(setup.catalogue.begin_load(other, "file:///a", "load-9", true));
  auto list = setup.catalogue.list();
  REQUIRE(list.size() == 2);
  CHECK(list[0].id == other);
  CHECK(list[0].job == "load-9");
  CHECK(list[0].kept);
  CHECK(list[0].store_bytes == 0);
  CHECK(list[1].id == kId);
  CHECK(list[1].source_uri == "file:///w");
  CHECK(list[1].store_bytes == 3 * kSegment);
  CHECK(list[1].tensor_bytes == 3 * kSegment - 110);
  CHECK(list[1].schema == digest(200).hex());
  CHECK(list[1].source_stamp == digest(201).hex());
  CHECK(name_of(list[1].state) == "resident");
}

TEST_CASE("resting bytes end at segment borders, at the limit and at the end of the version") {
  Setup setup;
  setup.load(kId, 1);
  auto lease = setup.catalogue.lease(kId, "update-1");
  REQUIRE(lease);
  const auto& contents = **lease;
  const auto total = contents.layout.total_bytes();
  REQUIRE(total == 3 * kSegment);  // a file that ends 10 bytes before its block does
  CHECK(contents.resting(0, total).size() == kSegment);
  CHECK(contents.resting(0, 17).size() == 17);
  CHECK(contents.resting(kSegment - 1, 100).size() == 1);
  CHECK(contents.resting(kSegment, total).data() == contents.memory[1].segment->memory.data());
  CHECK(contents.resting(2 * kSegment + 5, total).data() == contents.memory[2].segment->memory.data() + 5);
  CHECK(contents.resting(total - 3, 100).size() == 3);
  CHECK(contents.resting(total, 1).empty());
  CHECK(contents.resting(~std::uint64_t{0}, 1).empty());
  CHECK(contents.resting(5, 0).empty());
}

TEST_CASE("threads that load, lease and evict at once lose no memory and no lease") {
  Setup setup(9);
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  const std::vector<CheckpointId> ids{{"m", "1"}, {"m", "2"}, {"m", "3"}};
  std::atomic<int> torn = 0, leases = 0, evictions = 0;

  auto work = [&](unsigned number) {
    std::mt19937 random(seed + number);
    const auto job = fmt::format("job-{}", number);
    for (int round = 0; round < 150; ++round) {
      auto which = random() % ids.size();
      const auto& id = ids[which];
      switch (random() % 4) {
        case 0:
          if (setup.catalogue.begin_load(id, "file:///w", job, false)) {
            try {
              auto contents = setup.contents(static_cast<std::uint8_t>(which));
              for (const auto& held : contents.memory)
                std::ranges::fill(held.segment->memory, static_cast<std::byte>(which));
              if (!setup.catalogue.finish_load(id, std::move(contents))) ++torn;
            } catch (const std::runtime_error&) {
              setup.catalogue.fail_load(id, {ErrorKind::no_space, "an evicted version was not back yet"});
            }
          }
          break;
        case 1: evictions += setup.catalogue.evict(id, random() % 2 == 0).has_value(); break;
        case 2: setup.catalogue.list(); break;
        default:
          if (auto lease = setup.catalogue.lease(id, job)) {
            ++leases;
            auto bytes = (*lease)->resting(random() % (3 * kSegment), 64);
            for (auto byte : bytes)
              if (byte != static_cast<std::byte>(which)) ++torn;
          }
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < 5; ++i) threads.emplace_back(work, i);
  }
  CHECK(torn == 0);
  CHECK(leases > 0);
  CHECK(evictions > 0);
  std::uint64_t resident = 0;
  for (const auto& view : setup.catalogue.list()) {
    CHECK(view.leased_by.empty());
    resident += view.store_bytes;
  }
  CHECK(setup.lent() == resident);
}
