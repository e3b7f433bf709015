"""Workers of checkpoint-engine of every dialect, end to end: with the real Python of one version each, or with the reference
rank. What an operator sees when a rank fails is a part of each test."""

import harness
import workers

SMALL = {"push": {"bucket": "512KiB"}}


# What ranks raise for the fault fail_load.
RAISED = "told to fail" if harness.RANKS == "torch" else "the fault fail_load"


class Dialect:
    dialect = ""
    config = SMALL

    @classmethod
    def make_engine(cls):
        return harness.Engine(devices=("HOST-0", "HOST-1"), rank_commands=[workers.rank_command(cls.dialect)])

    def heals(self, daemon):
        """The rank is free, and the next update makes everything well."""
        self.shared.wait_idle()
        harness.wait_until("the custodian to let go", lambda: not daemon.http("GET", "/v1/status")[1]["in_custody"], 40)
        self.shared.reset()
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)
        engine = daemon.engine("e")
        self.assertEqual((engine["serving"], engine["poisoned"]), ("m@1", ""))

    def fails(self, kind, poisoned, device="HOST-1", words=(), **how):
        daemon = self.start()
        self.shared.fault(device, kind, **how)
        answer = daemon.ctl("update", "m@1")
        self.assert_fails(answer, "peer_failed", device, *words)
        if poisoned is not None:
            self.assertEqual(bool(daemon.engine("e")["poisoned"]), poisoned)
        self.heals(daemon)
        return answer

    def test_update_and_second_update(self):
        daemon = self.start()
        first = self.lanes(daemon.must("update", "m@1"))
        self.assert_holds(self.shared, self.source)
        second = self.second(self.source)
        daemon.load("m@2", second)
        again = self.lanes(daemon.must("update", "m@2"))
        self.assert_holds(self.shared, second)
        self.assertEqual(daemon.engine("e")["serving"], "m@2")
        if self.dialect == "D":  # who stays after the first None is watched for that once, for a second; later updates know
            self.assertGreater(min(lane["finish_seconds"] for lane in first), 1)
            for _ in range(4):  # a rank that is held up takes as long: one update in which none is shows that it is known
                if max(lane["finish_seconds"] for lane in again) < 1:
                    break
                again = self.lanes(daemon.must("update", "m@2"))
            self.assertLess(max(lane["finish_seconds"] for lane in again), 1)
        for lane in first:
            self.assertEqual(lane["sessions"], 1)

    @staticmethod
    def lanes(job):
        return job["result"]["engines"][0]["lanes"]

    def test_load_weights_fails(self):
        answer = self.fails("fail_load", True, bucket=1)
        said = answer.error["sentence"]
        if self.dialect == "A":  # the rank tells nobody but its engine, whose answer is of its first rank
            self.assertIn("went away", said)
        elif self.dialect == "B":
            self.assertIn("pickled exception", said)
            self.assertIn(RAISED, said)
        else:
            self.assertIn("failed to load", said)
            self.assertIn("Traceback", answer.error.get("vendor", ""))

    def test_load_weights_fails_in_the_rank_whose_answer_is_the_engines(self):
        answer = self.fails("fail_load", True, device="HOST-0", bucket=1)
        said = answer.error["sentence"] + answer.error.get("vendor", "")
        self.assertIn(RAISED, said)  # told by the rank itself, or by its engine

    def test_opening_the_memory_fails(self):
        self.fails("fail_open", None)  # poisoned if the other had its first bucket by then

    def test_the_post_hook_fails(self):
        self.fails("fail_post_hook", True, words=("post hook",))

    def test_a_slow_post_hook_is_waited_for_beyond_the_release_deadline(self):
        # A worker that is not known yet has both deadlines, whatever it does in which; all are new to a new daemon.
        daemon = self.start({**SMALL, "timeouts": {"release": "1s", "finish": "60s"}})
        for device in ("HOST-0", "HOST-1"):
            self.shared.fault(device, "slow_post_hook", seconds=1.5)
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)

    def test_a_rank_is_killed_in_a_bucket(self):
        self.fails("die", True, bucket=1)

    def test_the_daemon_is_killed_in_mid_update(self):
        daemon = self.daemon({**SMALL, "timeouts": {**harness.HELD, "custody": "20s"}})
        daemon.add_engine("e", self.shared, "m")
        daemon.load("m@1", self.source)
        for device in ("HOST-0", "HOST-1"):
            self.shared.hold(device, bucket=1)
        daemon.detached("update", "m@1")
        self.shared.wait_held()
        daemon.kill9()
        self.assertFalse(self.shared.idle(), "the kill came too late to test anything")
        daemon.start()
        self.shared.go()
        self.shared.wait_idle(15)
        self.assertGreaterEqual(self.shared.calls()[-1]["status"], 400)
        self.assertTrue(daemon.engine("e")["poisoned"])
        daemon.load("m@1", self.source)
        self.heals(daemon)

    def test_a_cancelled_update_frees_the_ranks(self):
        daemon = self.start({**SMALL, "timeouts": harness.HELD})
        for device in ("HOST-0", "HOST-1"):
            self.shared.hold(device)
        job = daemon.detached("update", "m@1")
        self.shared.wait_held()
        daemon.must("job", "cancel", job, "--force", json_output=False)
        self.shared.go()
        daemon.wait_job(job)
        self.heals(daemon)


class DialectA(Dialect, harness.OneEngine):
    dialect = "A"


class DialectB(Dialect, harness.OneEngine):
    dialect = "B"


class DialectC(Dialect, harness.OneEngine):
    dialect = "C"


class DialectD(Dialect, harness.OneEngine):
    dialect = "D"


if __name__ == "__main__":
    harness.main()
