#include "daemon/fleet/decide.h"

#include <catch2/catch.hpp>

using namespace ckptd;
using namespace ckptd::fleet;

namespace {

using Seen = Observation::State;
using Verdict = Kept::Verdict;

const VersionRef kOne{"m@1", "i1", "s"}, kTwo{"m@2", "i2", "s"}, kOneByName{"m@1", "", ""};

Look saw(Seen state) { return {.seen = Observation{.state = state, .weight_version = {}, .listener = {}}}; }

Look saw_nobody(bool returned = false) {
  return {.seen = {}, .error = {ErrorKind::unavailable, "cannot connect to it"}, .returned = returned};
}

/// An engine that serves its target.
Facts content() {
  return {.target = kOne, .given = kOne, .look = saw(Seen::serving), .target_is = Residency::resident};
}

template <class Change>
Facts with(Change change) {
  auto facts = content();
  change(facts);
  return facts;
}

bool has(const std::string& text, std::string_view word) { return text.find(word) != std::string::npos; }

}  // namespace

TEST_CASE("state, next step and readiness follow from what is known of an engine") {
  struct Row {
    std::string name;
    Facts facts;
    State state;
    Next next;
    bool ready;
    std::string says;  ///< a part of the sentence
  };
  const std::vector<Row> rows{
      {"it serves its target", content(), State::serving, Next::nothing, true, ""},
      {"the same, its target known by name alone", with([](Facts& f) { f.target = kOneByName; }), State::serving,
       Next::nothing, true, ""},
      {"the same, not looked at yet since the daemon's start", with([](Facts& f) { f.look.reset(); }), State::serving,
       Next::nothing, true, ""},
      {"it serves, and nobody ever said what it should", with([](Facts& f) { f.target.reset(); }), State::serving,
       Next::nothing, true, ""},
      {"it serves and is paused by somebody", with([](Facts& f) { f.look = saw(Seen::paused); }), State::serving,
       Next::wait, false, "paused"},
      {"it holds its target and is not ready yet", with([](Facts& f) { f.look = saw(Seen::starting); }), State::serving,
       Next::wait, false, "not ready yet"},

      {"nothing was ever asked for", with([](Facts& f) { f.target.reset(), f.given.reset(); }), State::waiting,
       Next::tell, false, "no target"},
      {"the same, not looked at yet", with([](Facts& f) { f.target.reset(), f.given.reset(), f.look.reset(); }),
       State::waiting, Next::tell, false, "no target"},
      {"the same, and its server is not there",
       with([](Facts& f) { f.target.reset(), f.given.reset(), f.look = saw_nobody(); }), State::waiting, Next::wait,
       false, "has not appeared yet"},

      {"a target, and nobody has looked yet", with([](Facts& f) { f.given.reset(), f.look.reset(); }), State::waiting,
       Next::wait, false, "not looked at"},
      {"a target, and no server yet", with([](Facts& f) { f.given.reset(), f.look = saw_nobody(); }), State::waiting,
       Next::wait, false, "is given m@1 when it does"},
      {"its server appears", with([](Facts& f) { f.given.reset(); }), State::waiting, Next::push, false,
       "given nothing yet"},
      {"its server appears and waits for its weights before it is ready",
       with([](Facts& f) { f.given.reset(), f.look = saw(Seen::starting); }), State::waiting, Next::push, false, ""},
      {"its server appears, paused", with([](Facts& f) { f.given.reset(), f.look = saw(Seen::paused); }), State::waiting,
       Next::push, false, ""},
      {"its server appears while its target is loading",
       with([](Facts& f) { f.given.reset(), f.target_is = Residency::loading; }), State::waiting, Next::wait, false,
       "is being loaded"},
      {"its server appears and its target is not there",
       with([](Facts& f) { f.given.reset(), f.target_is = Residency::missing; }), State::waiting, Next::tell, false,
       "ckptctl load m@1 DIR"},
      {"its server appears, but somebody else holds the trigger",
       with([](Facts& f) { f.given.reset(), f.follow = false; }), State::waiting, Next::tell, false, "only updated by hand"},
      {"its server cannot be updated at all",
       with([](Facts& f) { f.given.reset(), f.unsuitable = "it runs with --dp-size 2"; }), State::waiting, Next::tell,
       false, "--dp-size"},
      {"the last attempt failed and the next is not due",
       with([](Facts& f) { f.given.reset(), f.held_back = "update-7 failed, tried again later"; }), State::waiting,
       Next::wait, false, "update-7"},

      {"its server came back with dummy weights", with([](Facts& f) { f.lost = "its server was restarted"; }),
       State::waiting, Next::push, false, "was restarted"},
      {"the same, without being followed", with([](Facts& f) { f.lost = "its server was restarted", f.follow = false; }),
       State::waiting, Next::tell, false, "ckptctl update m@1"},
      {"somebody else gave it weights",
       with([](Facts& f) { f.lost = "somebody else changed its weights", f.changed_by_others = true; }), State::waiting,
       Next::tell, false, "does not undo"},

      {"its target was moved", with([](Facts& f) { f.target = kTwo; }), State::serving, Next::push, true, "serves m@1"},
      {"its target has the same name and other bytes",
       with([](Facts& f) { f.target = VersionRef{"m@1", "other", "s"}; }), State::serving, Next::push, true, ""},
      {"its target was moved to what is not resident",
       with([](Facts& f) { f.target = kTwo, f.target_is = Residency::missing; }), State::serving, Next::tell, true,
       "not resident"},
      {"its target was moved while it is paused", with([](Facts& f) { f.target = kTwo, f.look = saw(Seen::paused); }),
       State::serving, Next::push, false, ""},
      {"its target was moved, it is only updated by hand", with([](Facts& f) { f.target = kTwo, f.follow = false; }),
       State::serving, Next::tell, true, "by hand"},

      {"a job is at it", with([](Facts& f) { f.updating = true; }), State::updating, Next::wait, false, ""},
      {"a job is at it, and it is drained meanwhile", with([](Facts& f) { f.updating = true, f.drained = true; }),
       State::updating, Next::wait, false, ""},

      {"drained", with([](Facts& f) { f.drained = true; }), State::draining, Next::tell, false, "undrain"},
      {"drained, with a target that it has not", with([](Facts& f) { f.drained = true, f.target = kTwo; }),
       State::draining, Next::tell, false, "undrain"},
      {"drained and poisoned", with([](Facts& f) { f.drained = true, f.poisoned = "a rank died"; }), State::draining,
       Next::tell, false, "undrain"},

      {"gone", with([](Facts& f) { f.look = saw_nobody(); }), State::gone, Next::wait, false, "cannot connect"},
      {"gone after it was met without being given anything",
       with([](Facts& f) { f.given.reset(), f.look = saw_nobody(true); }), State::gone, Next::wait, false, ""},
      {"gone, with another target", with([](Facts& f) { f.target = kTwo, f.look = saw_nobody(); }), State::gone,
       Next::wait, false, ""},

      {"poisoned", with([](Facts& f) { f.poisoned = "update-3 did not finish"; }), State::poisoned, Next::push, false,
       "mixture"},
      {"poisoned, the next attempt is not due",
       with([](Facts& f) { f.poisoned = "update-3 did not finish", f.held_back = "later"; }), State::poisoned, Next::wait,
       false, "later"},
      {"poisoned by its first update", with([](Facts& f) { f.poisoned = "x", f.target.reset(), f.given.reset(); }),
       State::poisoned, Next::tell, false, "no target"},
      {"poisoned and only updated by hand", with([](Facts& f) { f.poisoned = "x", f.follow = false; }), State::poisoned,
       Next::tell, false, "by hand"},
      {"poisoned and gone", with([](Facts& f) { f.poisoned = "x", f.look = saw_nobody(); }), State::poisoned, Next::wait,
       false, "cannot be reached"},
      {"poisoned, and changed by others before: a full update heals all the same",
       with([](Facts& f) { f.poisoned = "x", f.lost = "somebody else", f.changed_by_others = true; }), State::poisoned,
       Next::push, false, ""},

      {"asleep with what it should have", with([](Facts& f) { f.look = saw(Seen::asleep); }), State::asleep, Next::wait,
       false, "sleeps"},
      {"asleep, what it had is released, nobody may wake it",
       with([](Facts& f) { f.look = saw(Seen::asleep), f.lost = kReleased, f.released = true; }), State::asleep,
       Next::wait, false, "somebody has woken it"},
      {"asleep, what it had is released: no reason to wake it, even if that is allowed",
       with([](Facts& f) {
         f.look = saw(Seen::asleep), f.lost = kReleased, f.released = true, f.wake = Wake::all;
       }),
       State::asleep, Next::wait, false, "again"},
      {"asleep since it was started again: nobody else will wake it",
       with([](Facts& f) { f.look = saw(Seen::asleep), f.lost = "its server was restarted", f.wake = Wake::all; }),
       State::asleep, Next::wake_then_push, false, "restarted"},
      {"the same, and nobody may wake it",
       with([](Facts& f) { f.look = saw(Seen::asleep), f.lost = "its server was restarted"; }), State::asleep, Next::wait,
       false, "--wake"},
      {"started again, and put to sleep since",
       with([](Facts& f) {
         f.look = saw(Seen::asleep), f.look->fell_asleep = true, f.lost = "its server was restarted", f.wake = Wake::all;
       }),
       State::asleep, Next::wait, false, "again"},
      {"asleep, and another version is wanted",
       with([](Facts& f) { f.look = saw(Seen::asleep), f.target = kTwo, f.wake = Wake::weights; }), State::asleep,
       Next::wake_then_push, false, "m@2"},
      {"asleep, another version is wanted, and nobody may wake it",
       with([](Facts& f) { f.look = saw(Seen::asleep), f.target = kTwo; }), State::asleep, Next::wait, false, "--wake"},
      {"asleep since it was started",
       with([](Facts& f) { f.look = saw(Seen::asleep), f.given.reset(), f.wake = Wake::all; }), State::asleep,
       Next::wake_then_push, false, ""},
      {"serving, and another of its name is at its update",
       with([](Facts& f) { f.target = kTwo, f.turn = "it waits until engine b has been updated"; }), State::serving,
       Next::wait, true, "engine b"},
      {"paused by us, and given nothing that is whole: nobody else lets it go on",
       with([](Facts& f) {
         f.paused_by_us = true, f.given.reset(), f.target.reset(), f.look = saw(Seen::paused);
       }),
       State::waiting, Next::resume, false, "lets it go on"},
      {"the same, and its target is not there",
       with([](Facts& f) {
         f.paused_by_us = true, f.lost = "somebody else", f.target_is = Residency::missing, f.look = saw(Seen::paused);
       }),
       State::waiting, Next::resume, false, ""},
      {"paused by us, and about to be given its target",
       with([](Facts& f) { f.paused_by_us = true, f.given.reset(), f.look = saw(Seen::paused); }), State::waiting,
       Next::push, false, ""},
      {"paused by us and poisoned: it is not let go on",
       with([](Facts& f) {
         f.paused_by_us = true, f.poisoned = "x", f.target_is = Residency::missing, f.look = saw(Seen::paused);
       }),
       State::poisoned, Next::tell, false, ""},
      {"woken, its memory was released", with([](Facts& f) { f.lost = "its memory was released"; }), State::waiting,
       Next::push, false, "released"},
  };
  for (const auto& row : rows) {
    INFO(row.name);
    const auto decision = decide(row.facts);
    INFO(decision.why);
    CHECK(name_of(decision.state) == name_of(row.state));
    CHECK(name_of(decision.next) == name_of(row.next));
    CHECK(decision.ready == row.ready);
    CHECK(has(decision.why, row.says));
  }
}

TEST_CASE("nothing is ever pushed into released memory, to a drained engine, or beside a job") {
  // Every combination of what speaks against a push with what speaks for one.
  for (const auto& given : {std::optional<VersionRef>(), std::optional(kOne), std::optional(kTwo)})
    for (const bool lost : {false, true})
      for (const bool poisoned : {false, true})
        for (const auto wake : {Wake::none, Wake::weights, Wake::all}) {
          auto facts = content();
          facts.given = given;
          facts.lost = lost ? "its server was restarted" : "";
          facts.poisoned = poisoned ? "x" : "";
          facts.wake = wake;
          const auto acts = [](const Facts& f) {
            const auto next = decide(f).next;
            return next == Next::push || next == Next::wake_then_push;
          };
          auto asleep = facts;
          asleep.look = saw(Seen::asleep);
          CHECK(decide(asleep).next != Next::push);
          if (wake == Wake::none) CHECK_FALSE(acts(asleep));
          auto drained = facts;
          drained.drained = true;
          CHECK_FALSE(acts(drained));
          auto updating = facts;
          updating.updating = true;
          CHECK_FALSE(acts(updating));
          auto unfollowed = facts;
          unfollowed.follow = false;
          CHECK_FALSE(acts(unfollowed));
          auto unseen = facts;
          unseen.look = saw_nobody();
          CHECK_FALSE(acts(unseen));
        }
}

TEST_CASE("what an engine was given is recognised by its process, then by its label") {
  const ProcessId p7{7, 100}, p7_again{7, 900}, p9{9, 900};
  struct Row {
    std::string name;
    Mark mark;
    std::optional<ProcessId> listener;
    std::string label;
    bool returned, fell_asleep;
    Verdict verdict;
  };
  const std::vector<Row> rows{
      {"the same process and label", {p7, "1"}, p7, "1", false, false, Verdict::same},
      {"the same process, no labels", {p7, ""}, p7, "", false, false, Verdict::same},
      {"the same process after a moment without an answer", {p7, "1"}, p7, "1", true, false, Verdict::same},
      {"another process", {p7, "1"}, p9, "default", false, false, Verdict::restarted},
      {"another process that was started with the same label", {p7, "1"}, p9, "1", false, false, Verdict::restarted},
      {"another process with the same number", {p7, "1"}, p7_again, "1", false, false, Verdict::restarted},
      {"the same process, another label", {p7, "1"}, p7, "2", false, false, Verdict::changed},
      {"the same process tells no label this time", {p7, "1"}, p7, "", false, false, Verdict::same},
      {"the process is not seen, the label is", {p7, "1"}, std::nullopt, "1", false, false, Verdict::same},
      {"the same, after it was away", {std::nullopt, "1"}, std::nullopt, "1", true, false, Verdict::same},
      {"away, and back with another label", {std::nullopt, "1"}, std::nullopt, "default", true, false, Verdict::restarted},
      {"never away, another label", {std::nullopt, "1"}, std::nullopt, "2", false, false, Verdict::changed},
      {"nothing to compare, never away", {}, std::nullopt, "", false, false, Verdict::unproven},
      {"nothing to compare, away and back", {}, std::nullopt, "", true, false, Verdict::restarted},
      {"a process outside our namespace is none", {ProcessId{0, 0}, ""}, ProcessId{0, 0}, "", true, false,
       Verdict::restarted},
      {"it slept", {p7, "1"}, p7, "1", false, true, Verdict::released},
      {"it slept and was restarted", {p7, "1"}, p9, "", false, true, Verdict::restarted},
  };
  for (const auto& row : rows) {
    INFO(row.name);
    Look look = saw(Seen::serving);
    look.seen->listener = row.listener;
    look.seen->weight_version = row.label;
    look.returned = row.returned;
    look.fell_asleep = row.fell_asleep;
    const auto kept = compare(row.mark, look);
    CHECK(static_cast<int>(kept.verdict) == static_cast<int>(row.verdict));
    CHECK(kept.how.empty() == (row.verdict == Verdict::same || row.verdict == Verdict::unproven));
  }
}

TEST_CASE("what to do with a sleeper has three names") {
  for (auto wake : {Wake::none, Wake::weights, Wake::all}) CHECK(wake_named(name_of(wake)) == wake);
  CHECK_FALSE(wake_named("some"));
}
