"""A minute of the soak (scripts/soak does hours), and that each of its assertions can fail."""

import collections
import json
import os
import sys

import harness
from harness import UnixConnection
from soak import (bystanders, daemon_faults, engine_faults, invariants, leaks, orders, plan as plans, run as soak,
                  world as worlds)

SEED = int(os.environ.get("CKPTD_SOAK_SEED") or 20261126)
STEPS, SECONDS = 8, 35
Stub = collections.namedtuple("Stub", "name family devices")
STUBS = [Stub(name, family, [str(number) for number in range(ranks)]) for name, family, ranks, _ in worlds.ENGINES]


class Minute(harness.Case):
    def test_nothing_breaks(self):
        world = worlds.World(SEED, min(harness.PATIENCE, 2))
        self.addCleanup(world.close)
        try:
            summary = soak.Soak(SEED, world).run(STEPS, SECONDS * min(harness.PATIENCE, 2),
                                                 lambda line: print(line, file=sys.stderr, flush=True))
        except soak.Failure as failure:
            print(world.logs(40), file=sys.stderr)
            self.fail(str(failure))
        self.assertGreater(summary["counts"]["updates"], soak.WARM_UP_UPDATES)
        print(json.dumps(summary), file=sys.stderr)


class Plans(harness.Case):
    def test_a_step_depends_on_seed_and_number_alone(self):
        versions = ["m@1", "m@2"]
        self.assertEqual(plans.plan(7, 31, STUBS, versions), plans.plan(7, 31, STUBS, versions))
        self.assertNotEqual(plans.plan(7, 31, STUBS, versions), plans.plan(8, 31, STUBS, versions))

    def test_every_row_of_every_table_is_met(self):
        met = collections.Counter()
        for number in range(1, 1500):
            plan = plans.plan(1, number, STUBS, ["m@1", "m@2", "m@3"])
            met.update([plan.daemon_fault, plan.bystander, plan.order, plan.drained, *plan.flags, plan.max_unavailable,
                        *(roll.fault for roll in plan.faults.values())])
        names = {fault.name for fault in engine_faults.TABLE} | set(daemon_faults.TABLE) | set(bystanders.TABLE)
        names |= set(orders.TABLE) | {plans.NODE, *(stub.name for stub in STUBS), "none", "hold", "repush", 1, 2}
        self.assertEqual(names - set(met) - {"nothing"}, set())

    def test_nobody_that_has_no_words_for_it_is_told_not_to_pause(self):
        for number in range(1, 1500):
            plan = plans.plan(1, number, STUBS, ["m@1", "m@2"])
            if "none" in plan.flags:
                self.assertTrue(plan.engines)
                self.assertNotIn("lmdeploy", plan.engines)

    def test_the_daemon_gets_old_in_every_second_stretch(self):
        old = range(plans.STRETCH, 2 * plans.STRETCH)
        self.assertFalse(any(plans.plan(1, number, STUBS, ["m@1"]).daemon_fault for number in old))
        self.assertTrue(any(plans.plan(1, number, STUBS, ["m@1"]).daemon_fault for number in range(plans.STRETCH)))


class AssertionsCanFail(harness.Case):
    """One engine that serves m@1; then something is done to it that the soak must notice."""

    @classmethod
    def setUpClass(cls):
        cls.world = worlds.World(1, min(harness.PATIENCE, 2), worlds.ENGINES[:1])
        cls.addClassCleanup(cls.world.close)

    def setUp(self):
        super().setUp()
        self.soak = soak.Soak(1, self.world)
        self.soak.heal("m@1")
        self.member = self.world.members[0]

    def at_once(self):
        """Nobody is given time to notice: what does not hold now is not to hold later either."""
        self.addCleanup(setattr, invariants, "SEEN_WITHIN", invariants.SEEN_WITHIN)
        invariants.SEEN_WITHIN = 0

    def test_a_rank_that_holds_something_else(self):
        invariants.one_version_or_marked(self.world)
        self.member.engine.reset()
        self.at_once()
        with self.assertRaisesRegex(AssertionError, "one is said to serve m@1, but HOST-0"):
            invariants.one_version_or_marked(self.world)

    def test_a_rank_that_stays_in_an_update(self):
        self.world.times["custody"] = -invariants.BEYOND_DEADLINE + 0.5
        self.addCleanup(self.world.times.update, custody=worlds.TIMES["custody"])
        self.member.engine.hold("HOST-0")
        update = self.background(self.world.daemon.ctl, "update", "m@1")
        self.member.engine.wait_held("HOST-0")
        with self.assertRaisesRegex(AssertionError, "to be free"):
            invariants.ranks_are_free(self.world)
        self.member.engine.go()
        update()
        self.member.engine.wait_idle()

    def test_a_call_and_an_update_that_last_too_long(self):
        invariants.calls_ended_in_time(self.world, 0)
        with self.assertRaisesRegex(AssertionError, "a call lasted"):
            invariants.calls_ended_in_time(self.world, -1000)
        invariants.update_ended_in_time(self.world, 5)
        with self.assertRaisesRegex(AssertionError, "the update took"):
            invariants.update_ended_in_time(self.world, 1000 * harness.PATIENCE)

    def test_an_engine_that_goes_on_with_a_mixture(self):
        self.world.ensure_resident("m@2")
        self.member.engine.fault("HOST-0", "fail_load", 2)
        self.assertNotEqual(self.world.daemon.ctl("update", "m@2", "--on-failure", "hold").code, 0)
        self.addCleanup(self.member.restart)
        invariants.paused_only_while_a_mixture(self.world)
        invariants.continued_with_one_version(self.world)
        self.member.engine.post("/continue_generation")  # as ckptd must not
        self.at_once()
        with self.assertRaisesRegex(AssertionError, "was resumed while it held no single version"):
            invariants.continued_with_one_version(self.world)
        with self.assertRaisesRegex(AssertionError, "may hold a mixture and is not paused any more"):
            invariants.paused_only_while_a_mixture(self.world)

    def test_an_engine_that_stays_paused(self):
        self.member.engine.post("/pause_generation", mode="retract")
        self.addCleanup(self.member.engine.post, "/continue_generation")
        self.at_once()
        with self.assertRaisesRegex(AssertionError, "holds m@1 and is still paused"):
            invariants.paused_only_while_a_mixture(self.world)

    def test_an_engine_that_is_paused_or_called_though_it_is_not_to_be(self):
        self.member.pause = "none"
        self.addCleanup(setattr, self.member, "pause", "in_place")
        with self.assertRaisesRegex(AssertionError, "one is never to be paused"):
            invariants.continued_with_one_version(self.world)
        invariants.at_most(self.world, ["one"], 1, 0)
        with self.assertRaisesRegex(AssertionError, "0 engines may be out of service at once"):
            invariants.at_most(self.world, ["one"], 0, 0)
        before = {"one": invariants.calls_of(self.member)}
        with self.assertRaisesRegex(AssertionError, "is not any more"):
            invariants.untouched(self.world, before)
        self.world.daemon.must("drain", "one")
        self.addCleanup(self.world.daemon.must, "undrain", "one")
        invariants.untouched(self.world, before)
        with self.assertRaisesRegex(AssertionError, "is out of service and was called"):
            invariants.untouched(self.world, {"one": (0, 0, 0)})

    def test_an_engine_of_which_is_said_that_it_holds_something_else(self):
        plan = plans.Plan(1, "m@1", (), {}, "", 0.0, "nothing", (), False, order="verify", of="one", to="m@1")
        orders.verify(self.world, plan)
        self.member.engine.reset()
        with self.assertRaisesRegex(AssertionError, "one is said to hold something else"):
            orders.verify(self.world, plan)

    def test_descriptors_that_stay_open(self):
        baseline = leaks.Baseline()
        for _ in range(baseline.WARM_UP + 1):
            baseline.check(self.world.daemon, 5)
        # More than any look may have seen: the daemon's own short calls to its engines come and go.
        held = [UnixConnection(self.world.daemon.socket_path, 5) for _ in range(baseline.limits["descriptors"])]
        for connection in held:
            connection.connect()
            self.addCleanup(connection.close)
        harness.wait_until("the connections to be accepted",
                           lambda: leaks.held(self.world.daemon)["descriptors"] > baseline.limits["descriptors"])
        with self.assertRaisesRegex(AssertionError, "descriptors from"):
            baseline.check(self.world.daemon, 1)

    def test_files_that_stay_in_the_runtime_directory(self):
        baseline = leaks.Baseline()
        for _ in range(baseline.WARM_UP + 1):
            baseline.check(self.world.daemon, 5)
        for number in range(3):
            path = os.path.join(self.world.daemon.runtime_dir, "r", f"stale{number}")
            with open(path, "w", encoding="ascii"):
                self.addCleanup(os.unlink, path)
        with self.assertRaisesRegex(AssertionError, "sockets of ranks from"):
            baseline.check(self.world.daemon, 0.2)

    def test_a_journal_that_cannot_be_read(self):
        self.world.daemon.terminate()
        path = os.path.join(self.world.daemon.state_dir, "state.json")
        with open(path, encoding="utf-8") as file:
            good = file.read()
        for content in (good[:-5], "{}"):
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            with self.assertRaisesRegex(AssertionError, "state.json"):
                invariants.journal_is_readable(self.world.daemon)
        with open(path, "w", encoding="utf-8") as file:
            file.write(good)
        self.world.start_daemon()

    def test_an_engine_that_fails_though_nothing_befell_it(self):
        plan = plans.Plan(1, "m@2", (), {}, "", 0.0, "nothing", (), False)
        self.world.ensure_resident("m@2")
        self.member.engine.fault("HOST-0", "fail_load")  # nobody told the plan
        with self.assertRaisesRegex(AssertionError, "nothing befell it"):
            self.soak.step(plan)
        self.member.forget_faults()
        self.member.engine.wait_idle()

    def test_an_update_that_succeeds_though_an_engine_was_to_fail(self):
        roll = engine_faults.Roll("a rank dies", "HOST-0", 1000, 0.0)  # a bucket that never comes
        plan = plans.Plan(1, "m@2", (), {"one": roll}, "", 0.0, "nothing", (), False)
        with self.assertRaisesRegex(AssertionError, "the update succeeded, though one failed"):
            self.soak.step(plan)
        self.member.forget_faults()

    def test_a_failure_says_how_to_come_there_again(self):
        def fail(_plan):
            raise AssertionError("something does not hold")

        self.soak.step = fail
        with self.assertRaisesRegex(soak.Failure, "seed 1, step 1: update(.|\n)*does not hold(.|\n)*"
                                    "scripts/soak --seed 1 --steps 1"):
            self.soak.run(5, tell=lambda line: None)


if __name__ == "__main__":
    harness.main()
