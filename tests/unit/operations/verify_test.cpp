// What engines tell of their own weights: taken after an update, compared on demand.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/unit/operations/house.h"

using namespace ckptd;
using namespace ckptd::tests;
using Sums = std::vector<fleet::RankChecksums>;

namespace {

const Sums kGood{{"tp0", {{"a", "1"}, {"b", "2"}}}};
const Sums kOther{{"tp0", {{"a", "1"}, {"b", "9"}}}};

bool says(const Error& error, std::string_view part) {
  INFO(error.sentence);
  return error.sentence.find(part) != std::string::npos;
}

/// An engine `e` that was given m@1 and tells checksums.
struct Told : House {
  Told() {
    load_or_die("1", 1);
    load_or_die("2", 2);
    add_engine("e", {"HOST-0"});
    own_server("e")->set_checksums(kGood);
  }

  nlohmann::json update(const std::string& version = "1") {
    const auto job = run_update(to(version));
    REQUIRE(job.state == "succeeded");
    return nlohmann::json::parse(job.result);
  }

  proto::control::Job verify(const std::string& engine = "e") {
    const auto job = operations->verify(engine);
    REQUIRE(job);
    const auto ended = operations->wait_job(job->id, Deadline::in(10s));
    REQUIRE(ended);
    CHECK(ended->kind == "verify");
    return *ended;
  }

  std::string poisoned(const std::string& engine = "e") { return operations->engine(engine)->poisoned; }
};

}  // namespace

TEST_CASE("an update's report says which ranks told checksums") {
  Told house;
  const auto report = house.update().at("engines").at(0);
  CHECK(report.at("checksums") == nlohmann::json{{"ranks", {{{"rank", "tp0"}, {"tensors", 2}}}}, {"why", ""}});
  // Once requests go on: a paused vLLM refuses.
  const auto heard = house.behaviour_of("e")->heard;
  REQUIRE(heard.size() >= 2);
  CHECK(heard.back() == "checksums");
  CHECK(heard[heard.size() - 2] != "pause retract");
}

TEST_CASE("an engine that tells none, or fails to, is updated all the same, and cannot be verified") {
  Told house;
  SECTION("none") {
    house.behaviour_of("e")->checksums.reset();
    CHECK(house.update()["engines"][0]["checksums"]["ranks"].empty());
    const auto job = house.verify();
    REQUIRE(job.error);
    CHECK(job.error->kind == ErrorKind::unsupported);
    CHECK(says(*job.error, "cannot be verified"));
  }
  SECTION("a failure") {
    house.behaviour_of("e")->drops_checksums = true;
    CHECK(house.update()["engines"][0]["checksums"]["why"].get<std::string>().find("its checker has failed") !=
          std::string::npos);
    CHECK(house.verify().error->kind == ErrorKind::peer_failed);
    CHECK(house.poisoned().empty());
  }
}

TEST_CASE("an engine is equal to what it told after its update, until a weight changes: that poisons it") {
  Told house;
  house.update();
  const auto equal = house.verify();
  REQUIRE(equal.state == "succeeded");
  const auto result = nlohmann::json::parse(equal.result);
  CHECK(result["compared"].size() == 1);
  CHECK(result["compared"][0]["engine"] == "e");
  CHECK(result["compared"][0]["tensors"] == 2);

  house.behaviour_of("e")->set_checksums(kOther);
  const auto changed = house.verify();
  REQUIRE(changed.error);
  CHECK(changed.error->kind == ErrorKind::peer_failed);
  CHECK(says(*changed.error, "rank tp0 differs in 1 tensor (b)"));
  CHECK(house.poisoned().find("has changed since") != std::string::npos);

  // A full update heals it, and is the new reference.
  house.update();
  CHECK(house.poisoned().empty());
  CHECK(house.verify().state == "succeeded");
}

TEST_CASE("one that is followed is brought back by itself") {
  Told house;
  house.own_server("f")->set_checksums(kGood);
  house.follow_engine("f", "m@1");
  const auto serves = [&](const char* version) {
    for (int i = 0; i < 500 && house.operations->engine("f")->serving != version; ++i) std::this_thread::sleep_for(10ms);
    return house.operations->engine("f")->serving == version;
  };
  REQUIRE(serves("m@1"));
  const auto server = house.behaviour_of("f");
  for (int i = 0; i < 500 && house.operations->engine("f")->state != "serving"; ++i) std::this_thread::sleep_for(10ms);
  const int calls = server->calls;
  server->set_checksums(kOther);
  CHECK(house.verify("f").state == "failed");
  for (int i = 0; i < 500 && server->calls == calls; ++i) std::this_thread::sleep_for(10ms);
  CHECK(server->calls > calls);
}

TEST_CASE("two engines that were given the same are compared, in the report and on demand; neither is poisoned") {
  Told house;
  house.add_engine("f", {"HOST-1"});
  house.own_server("f")->set_checksums(kGood);
  SECTION("they agree") {
    const auto report = house.update();
    REQUIRE(report["agreement"].size() == 1);
    CHECK(report["agreement"][0]["agree"] == true);
    CHECK(nlohmann::json::parse(house.verify().result)["compared"].size() == 2);
  }
  SECTION("they differ") {
    house.behaviour_of("f")->set_checksums(kOther);
    const auto report = house.update();
    CHECK(report["agreement"][0]["agree"] == false);
    CHECK(report["engines"][1]["warnings"].dump().find("their ranks do not hold the same") != std::string::npos);
    const auto job = house.verify();
    REQUIRE(job.error);
    CHECK(says(*job.error, "it does not hold what engine f does"));
    CHECK(house.poisoned("e").empty());
    CHECK(house.poisoned("f").empty());
  }
  SECTION("they are split differently") {
    house.behaviour_of("f")->set_checksums({{"tp0", {{"a", "1"}}}, {"tp1", {{"a", "1"}}}});
    CHECK(house.update()["agreement"].empty());
    const auto job = house.verify();
    REQUIRE(job.state == "succeeded");
    CHECK(nlohmann::json::parse(job.result)["not_comparable"] == nlohmann::json{"f"});
  }
  SECTION("they serve different versions") {
    house.update();
    auto request = House::to("2");
    request.engines = {"f"};
    REQUIRE(house.run_update(request).state == "succeeded");
    house.behaviour_of("f")->set_checksums(kOther);
    CHECK(nlohmann::json::parse(house.verify().result)["compared"].size() == 1);
  }
}

TEST_CASE("what was never compared is not called equal") {
  Told house;
  house.update();
  house.start();  // another daemon: what was kept in memory is gone
  const auto job = house.verify();
  REQUIRE(job.error);
  CHECK(job.error->kind == ErrorKind::not_found);
  CHECK(says(*job.error, "nothing to compare them with"));
}

TEST_CASE("there is nothing to verify of an engine that holds nothing, sleeps or was restarted") {
  Told house;
  CHECK(house.operations->verify("e").error().kind == ErrorKind::conflict);
  CHECK(house.operations->verify("nobody").error().kind == ErrorKind::not_found);
  house.update();
  SECTION("asleep") {
    house.behaviour_of("e")->set_state(fleet::Observation::State::asleep);
  }
  SECTION("restarted") {
    house.behaviour_of("e")->restart();
  }
  const auto job = house.operations->verify("e");  // the watch may have seen it already
  const auto ended = job ? house.operations->wait_job(job->id, Deadline::in(10s))->error : std::optional(job.error());
  REQUIRE(ended);
  CHECK(ended->kind == ErrorKind::conflict);
  CHECK(house.poisoned().empty());
}

TEST_CASE("what a verification saw is void when an update ran meanwhile") {
  Told house;
  house.update();
  const auto server = house.behaviour_of("e");
  std::string state;  // of the update, which runs on the job's thread: Catch2 is for one
  {
    std::lock_guard lock(server->mutex);
    server->while_summing = [&] {
      {
        std::lock_guard inner(server->mutex);
        server->while_summing = {};
      }
      server->set_checksums(kOther);
      const auto update = house.operations->update(House::to("2"));
      if (!update) return;
      const auto ended = house.operations->wait_job(update->id, Deadline::in(30s));
      if (ended) state = ended->state;
    };
  }
  const auto job = house.verify();
  CHECK(state == "succeeded");
  REQUIRE(job.error);
  CHECK(says(*job.error, "updated or registered meanwhile"));
  CHECK(house.poisoned().empty());
}

namespace {

/// An engine that tells no checksums, but values of the norms that its version has.
struct Spotted : Told {
  Spotted() {
    auto norm = random_tensor("model.norm.weight", "BF16", {3});
    norm.bytes = std::string("\x80\x3f\x00\xc0\xab\x3e", 6);  // 1, -2, a third
    write_checkpoint(folder / "normed", {{random_tensor("a", "F32", {64, 32}), norm}}, false);
    REQUIRE(load("7", "file://" + (folder / "normed").string())->state == "succeeded");
    std::lock_guard lock(server().mutex);
    server().checksums.reset();
  }
  FakeEngine::Behaviour& server() { return *behaviour_of("e"); }
  void tell(std::vector<double> values) {
    std::lock_guard lock(server().mutex);
    server().values["model.norm.weight"] = std::move(values);
  }
};

}  // namespace

TEST_CASE("without checksums, values of small tensors are held against the version's own") {
  Spotted house;
  house.tell({1, -2, 0.333984375});
  auto report = house.update("7").at("engines").at(0);
  CHECK(report.at("checksums").at("ranks").empty());
  CHECK(report.at("checksums").at("spot_check") ==
        nlohmann::json{{"ranks", {"tp0"}}, {"tensors", {{"model.norm.weight", "exact"}}}, {"values", 3},
                       {"not_told", nlohmann::json::array()}});
  CHECK(report.at("warnings").empty());
  auto job = house.verify();
  REQUIRE(job.state == "succeeded");
  auto result = nlohmann::json::parse(job.result);
  CHECK(result.at("spot_check").at("values") == 3);
  CHECK(result.at("compared").size() == 1);  // with what it told after its update

  // Changed since: the engine is poisoned, as with checksums.
  house.tell({1, -2, 0.5});
  job = house.verify();
  REQUIRE(job.error);
  CHECK(job.error->kind == ErrorKind::peer_failed);
  CHECK(says(*job.error, "has changed since"));
  CHECK(says(*job.error, "1 are not those of m@7 (model.norm.weight)"));
  CHECK_FALSE(house.poisoned().empty());
}

TEST_CASE("values that differ right after an update are a warning, since a server may keep them in a form of its own") {
  Spotted house;
  house.tell({2, -1, 1.333984375});
  const auto report = house.update("7").at("engines").at(0);
  CHECK(report.at("checksums").at("spot_check").at("tensors").at("model.norm.weight") == "different");
  CHECK_FALSE(report.at("checksums").contains("complaint"));
  REQUIRE(report.at("warnings").size() == 1);
  const auto job = house.verify();
  REQUIRE(job.error);
  CHECK(says(*job.error, "It keeps them in a form of its own, or they were not loaded"));
  CHECK(house.poisoned().empty());
}

TEST_CASE("a spot check needs values and a resident version to compare them with") {
  Spotted house;
  CHECK(says(Error{ErrorKind::unsupported, house.update("7").at("engines").at(0).at("checksums").at("spot_check").at("why")},
             "values of its weights"));
  auto job = house.verify();
  REQUIRE(job.error);
  CHECK(job.error->kind == ErrorKind::unsupported);
  house.tell({1, -2, 0.333984375});
  CHECK(house.verify().state == "succeeded");  // with the version itself: nothing was told after the update
  auto other = House::to("1");  // of which no tensor is a norm
  other.force = true;           // it has other tensors altogether
  const auto report = nlohmann::json::parse(house.run_update(other).result).at("engines").at(0);
  CHECK(report.at("checksums").at("spot_check").at("why").get<std::string>().find("no small weights") != std::string::npos);
  auto back = House::to("7");
  back.force = true;
  REQUIRE(house.run_update(back).state == "succeeded");
  REQUIRE(house.operations->evict("m", "7", false));
  job = house.verify();
  REQUIRE(job.error);
  CHECK(job.error->kind == ErrorKind::unsupported);
  CHECK(says(*job.error, "m@7 is not resident"));
}
