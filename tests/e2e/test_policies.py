"""What becomes of an engine's requests while it is updated, and of the engine when an update fails: as its operator sees it."""

import harness


class Policies(harness.Case):
    def start(self, engines=1, kind="sglang", arguments=(), add=(), **options):
        """A daemon with m@1 and m@2, and engines that have m@1. `add` goes to `engine add`."""
        self.one = self.llama()
        self.two = harness.checkpoints.make_second(self.one, self.path("two"))
        daemon = self.daemon({"device": {"kind": "host", "host_devices": 3}, "timeouts": harness.HELD}, **options)
        daemon.load("m@1", self.one)
        daemon.load("m@2", self.two)
        servers = []
        for number in range(engines):
            device = f"HOST-{number}"
            server = self.engine(devices=(device,), kind=kind, arguments=arguments)
            daemon.must("engine", "add", f"e{number}", "--kind", kind, "--endpoint", server.endpoint, "--checkpoint", "m",
                        "--devices", device, "--no-follow", *add)
            servers.append(server)
        daemon.must("update", "m@1")
        return daemon, servers

    def until_state(self, daemon, name, state):
        harness.wait_until(f"{name} to be {state}", lambda: daemon.engine(name)["state"] == state, 20)

    def paused_meanwhile(self, engine, update):
        """How the server was paused while `update` ran, and that it is not any more."""
        engine.hold("HOST-0")
        answer = self.background(update)
        engine.wait_held()
        paused = engine.state()["paused"]
        engine.go()
        result = answer()
        return paused, result

    def test_sglang_retracts_and_goes_on(self):
        daemon, (engine,) = self.start()
        paused, answer = self.paused_meanwhile(engine, lambda: daemon.ctl("update", "m@2"))
        self.assertEqual(answer.code, 0, answer)
        self.assertEqual(paused, "retract")
        self.assertIsNone(engine.state()["paused"])
        self.assert_holds(engine, self.two)
        self.assertEqual(engine.state()["weight_version"], "2")
        self.assertEqual(daemon.engine("e0")["paused"], "")

    def test_how_it_is_paused_and_labelled_can_be_said_anew(self):
        daemon, (engine,) = self.start()
        paused, answer = self.paused_meanwhile(
            engine, lambda: daemon.ctl("update", "m@2", "--pause", "in_place", "--keep-cache", "--weight-version", "step-7"))
        self.assertEqual(answer.code, 0, answer)
        self.assertEqual(paused, "in_place")
        self.assertEqual(engine.state()["weight_version"], "step-7")
        answer = daemon.ctl("update", "m@1", "--pause", "in_place")
        self.assert_fails(answer, "invalid_argument", "--keep-cache")
        answer = daemon.ctl("update", "m@1", "--pause", "keep")
        self.assert_fails(answer, "invalid_argument", "retract")
        self.assert_holds(engine, self.two)

    def test_a_flush_that_the_server_refuses_is_no_success(self):
        daemon, (engine,) = self.start(add=("--pause", "none"))
        self.assertIn("e0 is not paused", daemon.ctl("status").everything())
        engine.post("/standin/requests", running=2)
        engine.post("/pause_generation", mode="in_place")
        self.assert_fails(daemon.ctl("update", "m@2"), "peer_failed", "not flushed")

    def test_a_failed_update_is_followed_by_the_last_good_version(self):
        daemon, (engine,) = self.start()
        engine.fault("HOST-0", "fail_load", bucket=0)
        answer = daemon.ctl("update", "m@2")
        self.assert_fails(answer, "peer_failed", "it was given m@1 again")
        self.assert_holds(engine, self.one)
        shown = daemon.engine("e0")
        self.assertEqual((shown["serving"], shown["target"], shown["poisoned"], shown["paused"]), ("m@1", "m@1", "", ""))
        self.assertIsNone(engine.state()["paused"])
        job = next(job for job in daemon.http("GET", "/v1/jobs")[1]["jobs"] if job["state"] == "failed")
        self.assertEqual(len(daemon.job(job["id"])["record"]["engines"]), 2)

    def test_hold_leaves_it_paused_for_a_person(self):
        daemon, (engine,) = self.start(add=("--on-failure", "hold"))
        engine.fault("HOST-0", "fail_load", bucket=0)
        self.assert_fails(daemon.ctl("update", "m@2"), "peer_failed", "it stays paused")
        self.assertEqual(engine.state()["paused"], "retract")
        shown = daemon.engine("e0")
        self.assertTrue(shown["held"])
        self.assertEqual((shown["state"], shown["paused"], shown["ready"]), ("poisoned", "retract", False))
        self.assertTrue(daemon.engine("e0")["held"])
        daemon.must("update", "m@2")
        self.assertIsNone(engine.state()["paused"])
        self.assertFalse(daemon.engine("e0")["held"])
        self.assert_holds(engine, self.two)

    def test_a_daemon_that_is_killed_leaves_it_paused_and_its_successor_heals_and_resumes_it(self):
        daemon, (engine,) = self.start()
        daemon.must("engine", "add", "e0", "--kind", "sglang", "--endpoint", engine.endpoint, "--checkpoint", "m",
                    "--devices", "HOST-0")  # followed
        engine.hold("HOST-0")
        daemon.must("update", "m@2", "--detach")
        engine.wait_held()
        self.assertIn("pushing", daemon.phases(), "the journal says that it is touched")
        daemon.kill9()
        self.assertEqual(engine.state()["paused"], "retract")
        daemon.start()
        engine.go()
        self.assertEqual(daemon.engine("e0")["paused"], "retract")
        daemon.load("m@1", self.one)  # its target; it follows
        harness.wait_until("the engine to serve m@1", lambda: daemon.engine("e0")["ready"], 60)
        self.assertIsNone(engine.state()["paused"])
        self.assert_holds(engine, self.one)

    def test_several_that_serve_are_updated_one_after_the_other(self):
        daemon, engines = self.start(3)
        for number, engine in enumerate(engines):
            engine.fault(f"HOST-{number}", "stall", bucket=0, seconds=0.3)
        daemon.must("update", "m@2")
        calls = sorted((engine.calls()[-1]["started"], engine.calls()[-1]["ended"]) for engine in engines)
        for (_, ended), (started, _) in zip(calls, calls[1:]):
            self.assertLessEqual(ended, started)
        for number, engine in enumerate(engines):
            engine.hold(f"HOST-{number}")
        update = self.background(daemon.must, "update", "m@1", "--max-unavailable", "0")
        for engine in engines:
            engine.wait_held()
        for engine in engines:
            engine.go()
        update()
        calls = [engine.calls()[-1] for engine in engines]
        self.assertLess(max(call["started"] for call in calls), min(call["ended"] for call in calls))

    def test_a_part_that_succeeded_has_an_exit_code_of_its_own_and_the_rest_keeps_what_it_has(self):
        daemon, engines = self.start(3, add=("--on-failure", "hold"))
        engines[1].fault("HOST-1", "fail_load", bucket=0)
        answer = daemon.ctl("update", "m@2")
        self.assertEqual(answer.code, 16, answer)
        self.assert_fails(answer, "partial", "1 of 3 engines were updated")
        self.assertIn("e2", answer.everything())
        self.assertIn("--max-unavailable", answer.everything())
        self.assert_holds(engines[0], self.two)
        self.assert_holds(engines[2], self.one)
        self.assertEqual([daemon.engine(f"e{number}")["serving"] for number in (0, 2)], ["m@2", "m@1"])
        daemon.must("update", "m@2")
        for engine in engines:
            self.assert_holds(engine, self.two)

    def test_vllm_waits_for_what_runs_and_lmdeploy_is_put_to_sleep(self):
        for kind, arguments, wanted in (("vllm", (), "wait"), ("lmdeploy", (), None)):
            with self.subTest(kind=kind):
                daemon, (engine,) = self.start(kind=kind, arguments=arguments)
                self.until_state(daemon, "e0", "serving")
                paused, answer = self.paused_meanwhile(engine, lambda: daemon.ctl("update", "m@2"))
                self.assertEqual(answer.code, 0, answer)
                if wanted:
                    self.assertEqual(paused, wanted)
                self.assert_holds(engine, self.two)
                self.assertIsNone(engine.state()["paused"])
                self.assertEqual(engine.state()["released"], [])
                self.until_state(daemon, "e0", "serving")


if __name__ == "__main__":
    harness.main()
