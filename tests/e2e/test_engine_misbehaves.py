"""Engines that answer nonsense, too early, too late or never. Success needs every rank's word and the engine's."""

import harness


# Where no session is opened: what ends the wait for one. Nothing else has to happen within them.
IN_VAIN = {"connect": "3s", "answer_grace": "1s"}


class Misbehaviour(harness.Case):
    def check(self, answer, words=(), poisoned=None, kinds=("peer_failed", "unavailable", "timed_out", "corrupt"),
              timeouts=None, **how):
        timeouts = timeouts or (IN_VAIN if how.get("update") is False else {})
        daemon, engine, source = self.serving({"push": {"bucket": "512KiB"}, "timeouts": timeouts})
        engine.misbehave(answer, **how)
        result = daemon.ctl("update", "m@1")
        self.assert_fails(result, kinds, "e", *words)
        record = daemon.engine("e")
        self.assertNotEqual(record["serving"], "m@1")
        if poisoned is not None:
            self.assertEqual(bool(record["poisoned"]), poisoned, record)
        self.assert_alive(daemon)
        if answer != "never":
            engine.wait_idle()
        engine.reset()
        daemon.be_patient()
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        self.assertEqual(daemon.engine("e")["poisoned"], "")
        return result

    def test_500_without_a_session(self):
        self.check("500", ("500",), poisoned=False, update=False)

    def test_500_after_all_sessions(self):
        self.check("500", ("500",), poisoned=True)

    def test_no_after_all_sessions(self):
        self.check("failure", ("told to say no",), poisoned=True)

    def test_success_without_any_session_is_no_success(self):
        self.check("success", poisoned=False, update=False)

    def test_success_before_the_sessions_ended(self):
        daemon, engine, source = self.serving({"push": {"bucket": "512KiB"}})
        engine.misbehave("early_success")
        for device in engine.devices:
            engine.fault(device, "slow", seconds=0.4)
        result = daemon.ctl("update", "m@1")
        # The ranks' word is the stronger one: either this is an error, or all of them have every byte.
        if result.code == 0:
            engine.wait_idle()
            self.assert_holds(engine, source)
        else:
            self.assertNotEqual(daemon.engine("e")["serving"], "m@1")
        engine.wait_idle()

    def test_garbage_in_place_of_http(self):
        self.check("garbage", update=False, poisoned=False)
        self.check("garbage", poisoned=True)

    def test_garbage_in_place_of_json(self):
        self.check("garbage_json", poisoned=True)

    def test_json_of_another_shape(self):
        self.check("no_success_field", poisoned=True)

    def test_the_connection_ends_without_an_answer(self):
        self.check("close", update=False, poisoned=False)
        self.check("close", poisoned=True)

    def test_an_engine_that_never_answers(self):
        self.check("never", ("e",), kinds=("timed_out",), poisoned=True,
                   timeouts={"engine": "6s"})

    def test_an_engine_that_never_opens_sessions(self):
        self.check("never", kinds=("timed_out",), poisoned=False, update=False)

    def test_an_answer_that_comes_late_is_waited_for(self):
        daemon, engine, source = self.serving()
        engine.misbehave("normal", seconds=2)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_a_success_with_a_failed_rank_is_no_success(self):
        daemon, engine, _ = self.serving()
        engine.misbehave("success")
        engine.fault("HOST-1", "fail_load", 1)
        self.assert_fails(daemon.ctl("update", "m@1"), "peer_failed", "HOST-1")
        self.assertTrue(daemon.engine("e")["poisoned"])
        engine.wait_idle()

    def test_nobody_listens(self):
        daemon, source = self.daemon(), self.llama(megabytes=1)
        daemon.load("m@1", source)
        for endpoint in ("http://127.0.0.1:1", f"unix:{self.path('nobody.sock')}"):
            daemon.must("engine", "add", "e", "--kind", "sglang", "--endpoint", endpoint, "--checkpoint", "m")
            answer = daemon.ctl("update", "m@1")
            self.assert_fails(answer, "unavailable", "e")
            self.assertFalse(daemon.engine("e")["poisoned"])
            self.assertEqual(daemon.rank_sockets(), [])

    def test_a_rank_is_on_another_device(self):
        """SGLang tells of none but the first of its ranks, which had its endpoint."""
        daemon, engine, _ = self.serving({"timeouts": {"connect": "4s"}}, devices=("HOST-0", "HOST-9"))
        answer = daemon.ctl("update", "m@1")
        self.assert_fails(answer, "timed_out", "HOST-1", "the rank's device is not HOST-1")
        self.assertTrue(daemon.engine("e")["poisoned"])
        engine.wait_idle()

    def test_a_key_is_asked_for(self):
        daemon, engine, _ = self.serving(api_key="secret")
        answer = daemon.ctl("update", "m@1")
        self.assertNotEqual(answer.code, 0)
        self.assertIn("401", answer.everything() + answer.error.get("sentence", ""))
        self.assertNotIn("secret", daemon.log())
        self.assertFalse(daemon.engine("e")["poisoned"])
        self.assertEqual(engine.calls(), [])

    def test_the_engine_dies_in_the_middle(self):
        daemon, engine, source = self.serving({"push": {"bucket": "512KiB"}})
        engine.fault("HOST-0", "stall", 1, 30)
        update = self.background(daemon.ctl, "update", "m@1")
        engine.wait_updating()
        engine.process.popen.kill()
        self.assert_fails(update(), ("peer_failed", "unavailable"), "e")
        self.assert_alive(daemon)
        replacement = self.engine()
        daemon.add_engine("e", replacement, "m")
        daemon.must("update", "m@1")
        self.assert_holds(replacement, source)


if __name__ == "__main__":
    harness.main()
