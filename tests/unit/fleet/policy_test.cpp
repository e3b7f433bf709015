#include "daemon/fleet/policy.h"

#include <catch2/catch.hpp>

using namespace ckptd;
using namespace ckptd::fleet;
using Step = Rolling::Step;

TEST_CASE("what becomes of an engine when its update has ended") {
  struct Row {
    std::string why;
    Ended ended;
    OnFailure on_failure;
    After after;
  };
  constexpr auto repush = OnFailure::repush, hold = OnFailure::hold;
  const std::vector<Row> rows{
      {"it holds the new version", {.succeeded = true}, repush, After::resume},
      {"the same with hold", {.succeeded = true}, hold, After::resume},
      {"it was never touched, so it holds the old one", {.last_good_is_resident = true}, repush, After::resume},
      {"never touched, and hold", {}, hold, After::resume},
      {"never touched, cancelled", {.cancelled = true}, repush, After::resume},
      {"a mixture, and there is something to push again",
       {.mixture = true, .last_good_is_resident = true}, repush, After::repush},
      {"a mixture, and nothing to push", {.mixture = true}, repush, After::hold},
      {"a mixture, and hold", {.mixture = true, .last_good_is_resident = true}, hold, After::hold},
      {"a mixture because somebody cancelled: not another push of minutes",
       {.mixture = true, .cancelled = true, .last_good_is_resident = true}, repush, After::hold},
      {"the second push failed too: once and not for ever",
       {.mixture = true, .repushed = true, .last_good_is_resident = true}, repush, After::hold},
      {"the second push went well", {.succeeded = true, .repushed = true}, repush, After::resume},
  };
  for (const auto& row : rows) {
    INFO(row.why);
    CHECK(after(row.ended, row.on_failure) == row.after);
  }
}

TEST_CASE("names of policies are their own inverse") {
  for (const auto each : {OnFailure::repush, OnFailure::hold}) CHECK(on_failure_named(name_of(each)) == each);
  CHECK_FALSE(on_failure_named("again"));
}

TEST_CASE("each kind is paused by default in a way that it knows, and that goes with a flushed cache") {
  for (const auto& kind : known_kinds()) {
    INFO(kind);
    CHECK(check_pause(kind, default_pause(kind), true));
  }
}

TEST_CASE("engines that serve begin only as far as others stay in service") {
  struct Row {
    std::string why;
    std::vector<Rolling> engines;
    std::uint64_t max_unavailable;
    std::vector<std::size_t> begin;
  };
  const Rolling serving{Step::pending, true}, cold{Step::pending, false}, running{Step::running, true},
      running_cold{Step::running, false}, done{Step::done, true}, failed{Step::failed, true}, lost{Step::failed, false};
  const std::vector<Row> rows{
      {"no bound", {serving, serving, serving}, 0, {0, 1, 2}},
      {"one at a time", {serving, serving, serving}, 1, {0}},
      {"two at a time", {serving, serving, serving}, 2, {0, 1}},
      {"the next when one is done", {done, serving, serving}, 1, {1}},
      {"not while one runs", {running, serving}, 1, {}},
      {"nobody waits for those that serve nobody", {cold, serving, cold, serving}, 1, {0, 1, 2}},
      {"one that served nobody before takes no place", {running_cold, serving}, 1, {1}},
      {"one that failed and serves the old version again takes no place", {failed, serving}, 1, {1}},
      {"one that failed and serves nobody does", {lost, serving}, 1, {}},
      {"and the rest of the bound is still there", {lost, serving, serving}, 2, {1}},
      {"engines that serve nobody begin whatever has failed", {lost, cold}, 1, {1}},
      {"nothing is left", {done, failed}, 1, {}},
  };
  for (const auto& row : rows) {
    INFO(row.why);
    CHECK(may_begin(row.engines, row.max_unavailable) == row.begin);
  }
}

TEST_CASE("one at a time as soon as several serve") {
  const Rolling serving{Step::pending, true}, cold{Step::pending, false};
  CHECK(default_max_unavailable(std::vector{serving, serving}) == 1);
  CHECK(default_max_unavailable(std::vector{serving, cold, cold}) == 0);
  CHECK(default_max_unavailable(std::vector<Rolling>{}) == 0);
}
