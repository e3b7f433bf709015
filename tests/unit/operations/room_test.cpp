// Memory for a load: who leaves for it, what is said of that, and what a load that ends early gives back.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "tests/unit/operations/house.h"

using namespace ckptd;
using namespace ckptd::operations;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using tests::House;

namespace {

constexpr std::uint64_t kSegment = 2 * kMiB;  // each of these small versions takes one

std::string state(const House& house, const std::string& version) {
  auto found = house.operations->version("m", version, false);
  return found ? found->state : "unknown";
}

Result<api::Job> load(House& house, const std::string& version, std::uint64_t seed,
                      api::LoadPolicy policy = api::LoadPolicy::availability) {
  auto job = house.operations->load({"m", version, house.checkpoint("v" + version, seed), false, "", policy});
  if (!job) return job;
  auto ended = house.operations->wait_job(job->id, Deadline::in(10s));
  if (ended && ended->error) return std::unexpected(*ended->error);
  return ended;
}

std::vector<std::string> evicted(const Result<api::Job>& job) {
  REQUIRE(job);
  REQUIRE(job->state == "succeeded");
  return nlohmann::json::parse(job->result).at("evicted").get<std::vector<std::string>>();
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("the least recently used version leaves, uses are loads and updates") {
  House house(3 * kSegment);
  for (auto version : {1, 2, 3}) CHECK(evicted(load(house, std::to_string(version), version)) == Names{});
  CHECK(evicted(load(house, "1", 1)) == Names{});  // resident already: a use
  CHECK(evicted(load(house, "4", 4)) == Names{"m@2"});
  CHECK(state(house, "2") == "evicted");
  house.add_engine();
  REQUIRE(house.run_update(House::to("3")).state == "succeeded");
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  CHECK(evicted(load(house, "5", 5)) == Names{"m@4"});  // 3 was used later, 1 is what the engine has
  CHECK(evicted(load(house, "6", 6)) == Names{"m@3"});
  CHECK(evicted(load(house, "7", 7)) == Names{"m@5"});
  CHECK(state(house, "1") == "resident");
}

TEST_CASE("looking at a version is no use of it") {
  House house(2 * kSegment);
  REQUIRE(load(house, "1", 1));
  REQUIRE(load(house, "2", 2));
  house.add_engine();
  REQUIRE(house.operations->version("m", "1", true));
  REQUIRE(house.operations->preview_update(House::to("1")));
  CHECK(evicted(load(house, "3", 3)) == Names{"m@1"});
}

TEST_CASE("nobody leaves when that would not be enough, and the refusal names all") {
  House house(3 * kSegment);
  REQUIRE(load(house, "1", 1));
  REQUIRE(load(house, "2", 2));
  REQUIRE(load(house, "3", 3));
  REQUIRE(house.operations->set_kept("m", "1", true));
  house.add_engine();
  REQUIRE(house.run_update(House::to("2")).state == "succeeded");
  tests::write_checkpoint(house.folder / "large", {{tests::random_tensor("a", "F32", {1 << 20}, 9)}}, false);  // 4 MiB
  auto refused = house.operations->load({"m", "4", "file://" + (house.folder / "large").string(), false, ""});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK_THAT(refused.error().sentence, Contains("m@1 (2.00 MiB) is kept") && Contains("m@2 (2.00 MiB) is what e serves") &&
                                           Contains("m@3 (2.00 MiB) could leave"));
  for (const auto* version : {"1", "2", "3"}) CHECK(state(house, version) == "resident");
}

TEST_CASE("what an engine has is given over only to its own name, on request, when the memory is needed") {
  House house(kSegment);
  REQUIRE(load(house, "1", 1));
  house.add_engine();
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  auto refused = load(house, "2", 2);
  REQUIRE_FALSE(refused);
  CHECK_THAT(refused.error().sentence, Contains("--policy resource"));

  SECTION("a request that is refused early has evicted nothing") {
    auto missing = house.operations->load({"m", "2", "file:///nowhere", false, "", api::LoadPolicy::resource});
    REQUIRE_FALSE(missing);
    auto changed = load(house, "1", 7, api::LoadPolicy::resource);  // other bytes under what is resident
    REQUIRE_FALSE(changed);
    CHECK(changed.error().kind == ErrorKind::conflict);
    CHECK(state(house, "1") == "resident");
    CHECK(house.operations->status().warnings.empty());
  }
  SECTION("a kept one is not given over") {
    REQUIRE(house.operations->set_kept("m", "1", true));
    auto kept = load(house, "2", 2, api::LoadPolicy::resource);
    REQUIRE_FALSE(kept);
    CHECK_THAT(kept.error().sentence, Contains("m@1 (2.00 MiB) is kept"));
    CHECK(state(house, "1") == "resident");
  }
  SECTION("until the update there is no fallback, and status says so") {
    CHECK(evicted(load(house, "2", 2, api::LoadPolicy::resource)) == Names{"m@1"});
    auto warnings = house.operations->status().warnings;
    REQUIRE(warnings.size() == 1);
    CHECK_THAT(warnings[0], Contains("no fallback until e is updated to m@2"));
    REQUIRE(house.run_update(House::to("2")).state == "succeeded");
    CHECK(house.operations->status().warnings.empty());
  }
  SECTION("when its load fails, the error and status tell how to get the old one back") {
    REQUIRE(load(house, "2", 2, api::LoadPolicy::resource));
    REQUIRE(house.run_update(House::to("2")).state == "succeeded");
    auto failed = load(house, "1", 3, api::LoadPolicy::resource);  // once other bytes: only the end of reading tells
    REQUIRE_FALSE(failed);
    CHECK(failed.error().kind == ErrorKind::conflict);
    CHECK_THAT(failed.error().sentence, Contains("m@2 had left") && Contains("`ckptctl load m@2 file://"));
    auto warnings = house.operations->status().warnings;
    REQUIRE(warnings.size() == 1);
    CHECK_THAT(warnings[0], Contains("e still has m@2") && Contains("`ckptctl load m@2 file://"));
    REQUIRE(load(house, "2", 2));
    CHECK(house.operations->status().warnings.empty());
  }
}

TEST_CASE("a load that ends early, at whatever stage, gives all its memory back ready for the next") {
  constexpr std::uint64_t kBudget = 48 * kMiB;
  House house(kBudget);
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  REQUIRE(load(house, "kept", 1));
  tests::write_checkpoint(house.folder / "large", {{tests::random_tensor("a", "F32", {8 << 20}, 2)}}, false);  // 32 MiB
  const auto uri = "file://" + (house.folder / "large").string();
  std::set<std::string> ended_in;
  for (int round = 0; round < 30; ++round) {
    if (round % 5 == 0) house.operations->trim();  // so that memory is made, too
    auto job = house.operations->load({"m", "large", uri, false, ""});
    REQUIRE(job);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    (void)house.operations->cancel_job(job->id, false);
    auto ended = house.operations->wait_job(job->id, Deadline::in(20s));
    REQUIRE(ended);
    REQUIRE(ended->state != "running");
    ended_in.insert(ended->state + " " + ended->stage);
    if (ended->state == "succeeded") {
      REQUIRE(house.operations->evict("m", "large", false));
      continue;
    }
    REQUIRE(ended->state == "cancelled");
    CHECK(state(house, "large") == "failed");
    CHECK(house.store->usage().lent_bytes == kSegment);
    CHECK(house.store->usage().ready_bytes == house.store->usage().idle_bytes + kSegment);
  }
  INFO(fmt::format("{}", fmt::join(ended_in, ", ")));
  CHECK(house.store->usage().idle_bytes <= kBudget - kSegment);
  REQUIRE(house.operations->load({"m", "large", uri, false, ""}));
}

TEST_CASE("versions that share bytes come and go at once, and each keeps its own") {
  House house(9 * kSegment);
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::vector<std::string> uris;
  for (std::uint64_t i = 0; i < 4; ++i) {  // three large tensors of four are everybody's
    std::vector<tests::TestTensor> tensors;
    for (std::uint64_t t = 0; t < 4; ++t)
      tensors.push_back(tests::random_tensor(fmt::format("t{}", t), "U8", {3 << 19}, t == i ? 100 + i : t));
    tests::write_checkpoint(house.folder / fmt::format("s{}", i), {tensors}, false);
    uris.push_back("file://" + (house.folder / fmt::format("s{}", i)).string());
  }
  std::atomic<int> torn = 0, checked = 0;
  auto check = [&](const weights::CheckpointId& id) {
    auto lease = house.catalogue->lease(id, "a check");
    if (!lease) return;
    const auto& contents = **lease;
    for (std::size_t i = 0; i < contents.manifest.tensors.size(); ++i) {
      const auto& extent = contents.manifest.tensors[i].extent;
      weights::DigestStream stream;
      for (std::uint64_t done = 0; done < extent.bytes;) {
        const auto part = contents.resting(contents.layout.resting_offset(extent) + done, extent.bytes - done);
        if (part.empty()) break;
        stream.add(part);
        done += part.size();
      }
      const auto piece = stream.finish();  // below 4 MiB there is one
      torn += weights::combine_pieces({&piece, 1}) != contents.tensor_digests[i];
    }
    ++checked;
  };
  auto work = [&](unsigned number) {
    std::mt19937 random(seed + number);
    for (int round = 0; round < 15; ++round) {
      const auto which = random() % uris.size();
      const auto version = fmt::format("{}-{}", which, random() % 2);
      if (auto job = house.operations->load({"m", version, uris[which], false, ""}))
        (void)house.operations->wait_job(job->id, Deadline::in(20s));
      check({"m", version});
      if (random() % 3 == 0) (void)house.operations->evict("m", version, false);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < 3; ++i) threads.emplace_back(work, i);
  }
  CHECK(torn == 0);
  CHECK(checked > 0);
  std::set<std::uint32_t> held;
  for (const auto& view : house.catalogue->list())
    for (const auto& segment : view.segments) held.insert(segment.number);
  CHECK(house.store->usage().lent_bytes == held.size() * kSegment);
  for (const auto& view : house.catalogue->list()) (void)house.catalogue->evict(view.id, true);
  CHECK(house.store->usage().lent_bytes == 0);
}

TEST_CASE("loads, updates and evictions at once: nothing that is leased leaves") {
  House house(3 * kSegment);
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::vector<std::string> uris;
  for (int i = 0; i < 5; ++i) uris.push_back(house.checkpoint("v" + std::to_string(i), static_cast<unsigned>(i)));
  house.add_engine("e0", {"HOST-0"});
  house.add_engine("e1", {"HOST-1"});
  std::atomic<int> wrong = 0, loaded = 0, updated = 0;
  auto wait = [&](const api::Job& job) {
    auto ended = house.operations->wait_job(job.id, Deadline::in(20s));
    if (!ended || ended->state == "running") ++wrong;
    return ended && ended->state == "succeeded";
  };
  auto work = [&](unsigned number) {
    std::mt19937 random(seed + number);
    for (int round = 0; round < 12; ++round) {
      const auto which = random() % uris.size();
      const auto policy = random() % 2 ? api::LoadPolicy::resource : api::LoadPolicy::availability;
      auto job = house.operations->load({"m", std::to_string(which), uris[which], false, "", policy});
      if (job) loaded += wait(*job);
      if (!job && job.error().kind == ErrorKind::internal) ++wrong;
      auto request = House::to(std::to_string(which));
      request.engines = {fmt::format("e{}", number % 2)};
      auto update = house.operations->update(request);
      if (!update) continue;
      updated += wait(*update);
      if (auto ended = house.operations->job(update->id); ended && ended->state == "failed") ++wrong;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < 4; ++i) threads.emplace_back(work, i);
  }
  CHECK(wrong == 0);
  CHECK(loaded > 0);
  CHECK(updated > 0);
  std::uint64_t resident = 0;
  for (const auto& version : house.operations->versions()) resident += version.store_bytes;
  CHECK(house.store->usage().lent_bytes == resident);
}
