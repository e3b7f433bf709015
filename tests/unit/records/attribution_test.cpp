#include "daemon/records/attribution.h"

#include <catch2/catch.hpp>
#include <random>

#include "tests/support/shuffling_device/seed.h"
#include "tests/unit/records/samples.h"

using namespace ckptd;
using namespace ckptd::records;
using namespace ckptd::records::testing;

namespace {

double seconds_of(const std::vector<Blame>& blames, Reason reason, int lane = -2) {
  double sum = 0;
  for (const auto& blame : blames)
    if (blame.reason == reason && (lane == -2 || blame.lane == lane)) sum += blame.seconds;
  return sum;
}

double sum_of(const std::vector<Blame>& blames) {
  double sum = 0;
  for (const auto& blame : blames) sum += blame.seconds;
  return sum;
}

struct Row {
  std::string what;
  PushAccount account;
  Reason most;
  int lane;  ///< who was waited for
  double seconds;
};

std::vector<Row> rows() {
  std::vector<Row> all;
  all.push_back({"the device is slow: the rank is idle while its next bucket is copied",
                 push({lane("A", 7, {span(What::connect, 0, 1), span(What::upload, 1, 9, 0, 10), span(What::reload, 9, 10, 0, 10),
                                     span(What::upload, 9, 19, 1, 10), span(What::reload, 19, 20, 1, 10),
                                     span(What::finish, 20, 21)})},
                      {{"push", 0}}, 21),
                 Reason::upload, 0, 1.7});
  all.push_back({"the rank is slow: uploads hide behind it",
                 push({lane("A", 7, {span(What::connect, 0, 1), span(What::upload, 0, 2, 0, 10), span(What::upload, 2, 4, 1, 10),
                                     span(What::reload, 2, 12, 0, 10), span(What::reload, 12, 20, 1, 10)})},
                      {{"push", 0}}, 20),
                 Reason::reload, 0, 1.8});
  all.push_back({"the engine finishes its requests before it wakes its ranks",
                 push({lane("A", 7, {span(What::connect, 1, 15), span(What::reload, 15, 17)}),
                       lane("B", 8, {span(What::connect, 1, 15), span(What::reload, 15, 18)})},
                      {{"open", 0}, {"push", 1}}, 18),
                 Reason::engine, -1, 1.4});
  all.push_back({"one rank comes long after the other",
                 push({lane("A", 7, {span(What::connect, 0, 2), span(What::reload, 2, 3)}),
                       lane("B", 8, {span(What::connect, 0, 18), span(What::reload, 18, 20)})},
                      {{"push", 0}}, 20),
                 Reason::connect, 1, 1.6});
  all.push_back({"and one that never came",
                 push({lane("A", 7, {span(What::connect, 0, 2)}), lane("B", 0, {span(What::connect, 0, 20)})},
                      {{"push", 0}}, 20, "broadcast"),
                 Reason::connect, 1, 1.8});
  all.push_back({"the engine confirms late",
                 push({lane("A", 7, {span(What::connect, 0, 1), span(What::reload, 1, 4)})}, {{"push", 0}, {"answer", 4}}, 20),
                 Reason::engine, -1, 1.7});
  all.push_back({"memory for the arena takes long",
                 push({lane("A", 7, {span(What::connect, 12, 13), span(What::reload, 13, 14)})},
                      {{"ping", 0}, {"arena", 1}, {"plan", 11}, {"push", 12}}, 14),
                 Reason::overhead, -1, 1.1});
  all.push_back({"in lockstep the quick lane waits for the slow rank",
                 push({lane("A", 7, {span(What::connect, 0, 1), span(What::upload, 1, 2, 0, 5), span(What::reload, 2, 18, 0, 5),
                                     span(What::reload, 18, 19, 1, 5), span(What::finish, 19, 20)}),
                       lane("B", 8, {span(What::connect, 0, 1), span(What::upload, 1, 2, 0, 5), span(What::reload, 2, 3, 0, 5),
                                     span(What::upload, 3, 18, 1, 5), span(What::reload, 18, 19, 1, 5), span(What::finish, 19, 21)})},
                      {{"push", 0}}, 21, "broadcast"),
                 Reason::collective, 0, 1.5});
  all.push_back({"the rank processes its weights at the end",
                 push({lane("A", 7, {span(What::connect, 0, 1), span(What::reload, 1, 3), span(What::release, 3, 4),
                                     span(What::finish, 4, 20)})},
                      {{"push", 0}}, 20),
                 Reason::finish, 0, 1.7});
  all.push_back({"nobody connected and nothing was measured", push({}, {{"push", 0}}, 20), Reason::engine, -1, 2.0});
  auto dark = push({lane("A", 7, {})}, {{"push", 0}}, 20);
  all.push_back({"ranks connected, but no lane told its spans", dark, Reason::other, -1, 2.0});
  // As a gate of the push does it, which runs while the push is under way.
  auto nested = push({lane("A", 7, {span(What::connect, 12, 13), span(What::reload, 13, 14)})}, {{"push", 0}}, 14);
  nested.steps.begin("open", at(0));  // inside the push
  nested.steps.end(at(12));
  all.push_back({"a step inside the push counts for itself", nested, Reason::overhead, -1, 1.2});
  return all;
}

}  // namespace

TEST_CASE("each kind of slowness is found, with who was waited for and how long") {
  for (const auto& row : rows()) {
    INFO(row.what);
    const auto lanes = attribute(row.account);
    const auto& blames = lanes[last_lane(row.account)];
    REQUIRE_FALSE(blames.empty());
    CHECK(name_of(blames.front().reason) == name_of(row.most));
    CHECK(blames.front().lane == row.lane);
    CHECK(blames.front().seconds == Approx(row.seconds));
    for (const auto& each : lanes)
      CHECK(sum_of(each) == Approx(seconds_between(row.account.begin, row.account.end)));
  }
}

TEST_CASE("a step may run inside another, which goes on") {
  Steps steps;
  steps.begin("push", at(0));
  CHECK(steps.timed("journal", [] { return 7; }) == 7);
  CHECK(steps.last() == "journal");
  steps.begin("answer", at(20));
  steps.end(at(25));
  steps.end(at(99));  // nothing is open any more
  REQUIRE(steps.all().size() == 3);
  CHECK(steps.seconds("push") == Approx(2));
  CHECK(steps.seconds("answer") == Approx(0.5));
  CHECK(steps.last() == "answer");
}

TEST_CASE("a lane that is done has the time of the others on its own account") {
  const auto account = push({lane("A", 7, {span(What::connect, 0, 1), span(What::reload, 1, 5)}),
                             lane("B", 8, {span(What::connect, 0, 1), span(What::reload, 1, 20)})},
                            {{"push", 0}}, 20);
  const auto lanes = attribute(account);
  CHECK(last_lane(account) == 1);
  CHECK(seconds_of(lanes[0], Reason::others) == Approx(1.5));
  CHECK(seconds_of(lanes[1], Reason::others) == 0);
}

TEST_CASE("spans that overlap count once, and those outside of the push not at all") {
  const auto one = lane("A", 7, {span(What::upload, 0, 5), span(What::upload, 3, 8), span(What::upload, 4, 6),
                                 span(What::upload, 9, 10), span(What::upload, 12, 11)});
  CHECK(busy_seconds(one, What::upload) == Approx(0.9));
  CHECK(busy_seconds(one, What::reload) == 0);
  auto account = push({lane("A", 7, {span(What::reload, -50, 200)})}, {{"push", 0}}, 10);
  CHECK(seconds_of(attribute(account)[0], Reason::reload, 0) == Approx(1));
}

TEST_CASE("whatever spans are told, each lane's reasons add up to the push") {
  std::mt19937_64 random(tests::seed_of_run());
  for (int round = 0; round < 200; ++round) {
    const auto draw = [&](int most) { return static_cast<int>(random() % static_cast<unsigned>(most)); };
    std::vector<pipeline::LaneReport> lanes;
    for (int i = draw(4); i > 0; --i) {
      std::vector<pipeline::Span> spans;
      for (int n = draw(30); n > 0; --n)
        spans.push_back(span(static_cast<What>(draw(5)), draw(60) - 10, draw(60) - 10, static_cast<std::uint32_t>(draw(9)), 1));
      lanes.push_back(lane(fmt::format("D{}", i), draw(2), std::move(spans)));
    }
    const auto account = push(lanes, {{"ping", draw(5)}, {"push", 5 + draw(5)}, {"answer", 10 + draw(20)}}, 30 + draw(10),
                              draw(2) != 0 ? "broadcast" : "independent");
    for (const auto& blames : attribute(account)) {
      CHECK(sum_of(blames) == Approx(seconds_between(account.begin, account.end)));
      for (const auto& blame : blames) CHECK(blame.seconds >= 0);
    }
  }
}
