"""Ranks that come late, fail, stall and die. After each: a sentence that names the rank, a daemon that serves, no rank
left in recv, and a poisoned engine exactly when a bucket was sent. With both kinds of ranks."""

import harness

SHORT = {"timeouts": {"connect": "5s", "reload": "5s", "release": "5s", "finish": "5s"}, "push": {"bucket": "512KiB"}}
SLEEPS = ("stall", "slow_post_hook", "connect_late")  # longer than any deadline here
AN_ENGINE_THAT_HANGS = {"answer_grace": "500ms"}  # does not answer in it either


class RankFaults(harness.OneEngine):
    config = SHORT

    def check_failure(self, daemon, poisoned, words=(), kinds=("peer_failed", "timed_out")):
        answer = daemon.ctl("update", "m@1")
        self.assert_fails(answer, kinds, *words)
        self.shared.go()
        self.check_recovery(daemon, poisoned)
        return answer

    def check_recovery(self, daemon, poisoned):
        self.assert_alive(daemon)
        self.assertEqual(daemon.version("m", "1")[1]["state"], "resident")
        engine = daemon.engine("e")
        if poisoned is not None:  # None: it depends on whether the other rank had got a bucket
            self.assertEqual(bool(engine["poisoned"]), poisoned, engine)
        self.assertNotEqual(engine["serving"], "m@1")
        self.shared.wait_idle()
        harness.wait_until("the custodian to let go", lambda: not daemon.http("GET", "/v1/status")[1]["in_custody"], 40)
        harness.wait_until("sockets to be removed", lambda: not daemon.rank_sockets())
        self.shared.reset()
        daemon.be_patient()
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)
        engine = daemon.engine("e")
        self.assertEqual((engine["serving"], engine["poisoned"], engine["state"]), ("m@1", "", "serving"))

    def fault(self, device, kind, bucket=0, seconds=0):
        if kind in SLEEPS:
            self.shared.hold(device, kind, bucket)
        else:
            self.shared.fault(device, kind, bucket, seconds)

    def check_fault(self, device, kind, bucket=0, seconds=0, poisoned=True, words=(), **how):
        daemon = self.start({**SHORT, "timeouts": {**SHORT["timeouts"], **AN_ENGINE_THAT_HANGS}} if kind in SLEEPS else SHORT)
        pid = self.shared.rank(device)["pid"]
        self.fault(device, kind, bucket, seconds)
        return daemon, pid, self.check_failure(daemon, poisoned, words, **how)

    def test_a_rank_is_killed_in_its_first_bucket(self):
        self.check_fault("HOST-0", "die", 0, words=("HOST-0",))

    def test_a_rank_is_killed_in_a_later_bucket(self):
        _, pid, answer = self.check_fault("HOST-1", "die", 1, words=("HOST-1",))
        self.assertIn(str(pid), answer.error["sentence"])

    def test_a_rank_stalls(self):
        self.check_fault("HOST-1", "stall", 0, words=("HOST-1",), kinds=("timed_out",))

    def test_a_rank_stalls_in_a_later_bucket(self):
        self.check_fault("HOST-0", "stall", 1, words=("HOST-0",), kinds=("timed_out",))

    def test_load_weights_fails_in_the_first_rank(self):
        self.check_fault("HOST-0", "fail_load", 0, words=("HOST-0", "fail"), kinds=("peer_failed",))

    def test_load_weights_fails_in_the_second_rank_alone(self):
        # SGLang's answer is the first rank's: only the session knows.
        self.check_fault("HOST-1", "fail_load", 1, words=("HOST-1", "fail"), kinds=("peer_failed",))

    def test_the_others_are_told_why(self):
        daemon = self.start({**SHORT, "push": {"bucket": "512KiB", "fan_out": "broadcast"}})
        self.shared.fault("HOST-1", "fail_load", 1)
        self.assert_fails(daemon.ctl("update", "m@1"), "peer_failed", "HOST-1")
        self.shared.wait_idle()
        told = self.shared.calls()[-1]["ranks"]["HOST-0"]["error"]
        self.assertIn("HOST-1", told)
        self.assertIn("failed to load", told)

    def test_opening_the_memory_fails(self):
        self.check_fault("HOST-1", "fail_open", poisoned=None, words=("HOST-1",), kinds=("peer_failed",))

    def test_the_post_hook_fails_in_the_second_rank_alone(self):
        self.check_fault("HOST-1", "fail_post_hook", words=("HOST-1",), kinds=("peer_failed",))

    def test_the_post_hook_fails_in_the_first_rank(self):
        self.check_fault("HOST-0", "fail_post_hook", words=("HOST-0",), kinds=("peer_failed",))

    def test_the_post_hook_takes_too_long(self):
        self.check_fault("HOST-0", "slow_post_hook", words=("HOST-0",), kinds=("timed_out",))

    def test_a_rank_connects_too_late(self):
        _, _, answer = self.check_fault("HOST-1", "connect_late", poisoned=None,
                                        words=("HOST-1",), kinds=("timed_out",))
        self.assertIn("connect", answer.error["sentence"])

    def test_a_second_process_on_the_endpoint_is_an_error(self):
        self.check_fault("HOST-0", "connect_twice", seconds=4, poisoned=None, words=("HOST-0",), kinds=("peer_failed",))

    def test_a_rank_that_connects_late_but_in_time_is_served(self):
        daemon = self.start({**SHORT, "timeouts": harness.HELD})
        self.shared.fault("HOST-0", "connect_late", seconds=1.5)
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)

    def test_slow_ranks_are_waited_for(self):
        daemon = self.start()
        for device in ("HOST-0", "HOST-1"):
            self.shared.fault(device, "slow", seconds=0.3)
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)

    def test_both_ranks_are_killed(self):
        daemon = self.start()
        for device in ("HOST-0", "HOST-1"):
            self.shared.fault(device, "die", 1)
        self.check_failure(daemon, True, ("HOST-",))

    def test_a_rank_is_killed_before_it_connects(self):
        # Whoever never connected may still come: its endpoint is held for as long as custody lasts.
        daemon = self.start({**SHORT, "timeouts": {**SHORT["timeouts"], "custody": "6s"}})
        self.shared.hold("HOST-1", "connect_late")
        update = self.background(daemon.ctl, "update", "m@1")
        self.shared.wait_held("HOST-1")
        self.shared.kill_rank("HOST-1")
        answer = update()
        self.assert_fails(answer, ("timed_out", "peer_failed"), "HOST-1")
        self.check_recovery(daemon, None)

    def test_with_broadcast_a_dead_rank_ends_the_others(self):
        for device, kind in (("HOST-1", "die"), ("HOST-0", "fail_load"), ("HOST-1", "stall")):
            with self.subTest(device=device, kind=kind):
                self.shared.reset()
                daemon = self.start({"timeouts": {**SHORT["timeouts"], **(AN_ENGINE_THAT_HANGS if kind in SLEEPS else {})},
                                     "push": {"bucket": "512KiB", "fan_out": "broadcast"}})
                self.fault(device, kind, 1)
                self.check_failure(daemon, True, (device,))
                daemon.close()


if __name__ == "__main__":
    harness.main()
