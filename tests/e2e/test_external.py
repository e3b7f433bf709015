"""Those who hold the trigger themselves: the test is the trainer. It asks ckptd for the endpoints, hands them to the server,
and ckptd only serves the ranks."""

import json
import os
import time

import harness

SHORT = {"timeouts": {"connect": "4s", "reload": "4s", "release": "2s", "finish": "4s"}}


class External(harness.Case):
    def held(self, daemon, version="m@1", **request):
        """Asks for the endpoints of e: the job, as it was answered."""
        status, job = daemon.http("POST", "/v1/updates",
                                  {"checkpoint": version, "engines": ["e"], "trigger": "external", **request})
        self.assertEqual(status, 202, job)
        self.assertEqual(job["state"], "running", job)
        return job

    def call(self, engine, handles, label="step-1"):
        """As a trainer does."""
        return engine.http("POST", "/update_weights_from_ipc",
                           {"zmq_handles": handles, "flush_cache": True, "weight_version": label})

    def endpoints_in_journal(self, daemon):
        with open(os.path.join(daemon.state_dir, "state.json"), encoding="utf-8") as file:
            return {session["device"]: session["endpoint"] for update in json.load(file)["updates"]
                    for session in update["sessions"]}

    def test_the_trainer_calls_and_ckptd_serves(self):
        daemon, engine, source = self.serving({"watch": {"poll": "100ms", "poll_slowest": "500ms"}})
        job = self.held(daemon)
        self.assertEqual(sorted(job["zmq_handles"]), ["HOST-0", "HOST-1"])
        self.assertEqual(job["engines"], [{"engine": "e", "zmq_handles": job["zmq_handles"]}])
        self.assertEqual(self.endpoints_in_journal(daemon), job["zmq_handles"])
        self.assertEqual(daemon.job(job["id"])["zmq_handles"], job["zmq_handles"])
        self.assertEqual(daemon.engine("e")["state"], "updating")
        self.assertFalse(engine.calls(), "ckptd called the engine itself")

        status, answer = self.call(engine, job["zmq_handles"])
        self.assertEqual((status, answer.get("success")), (200, True), answer)
        ended = daemon.wait_job(job["id"])
        self.assertEqual(ended["state"], "succeeded", ended)
        self.assertNotIn("zmq_handles", ended)
        self.assert_holds(engine, source)
        self.assertEqual(len(engine.calls()), 1)
        # Ranks that came for one session more than was said would be told so, for a while.
        self.assertEqual(daemon.http("GET", "/v1/status")[1]["in_custody"], [])
        harness.wait_until("the endpoints to be closed", lambda: not daemon.rank_sockets(), 30)
        shown = daemon.engine("e")
        self.assertEqual((shown["serving"], shown["target"], shown["poisoned"]), ("m@1", "m@1", ""))
        # The label that the trainer has given is no sign of somebody else.
        time.sleep(0.6)  # many looks long
        self.assertEqual(engine.post("/update_weight_version", new_version="step-1b").get("success"), True)
        time.sleep(0.6)
        shown = daemon.engine("e")
        self.assertEqual((shown["state"], shown["ready"]), ("serving", True), shown)

    def test_the_command_prints_what_to_hand_over_and_leaves(self):
        daemon, engine, source = self.serving()
        job = daemon.must("update", "m@1", "--engine", "e", "--trigger", "external")
        self.assertEqual(self.call(engine, job["zmq_handles"])[0], 200)
        daemon.must("wait", f"job/{job['id']}")
        self.assert_holds(engine, source)
        said = daemon.must("update", "m@1", "--engine", "e", "--trigger", "external", json_output=False).stdout
        self.assertIn("HOST-1", said)
        self.assertIn("ckptctl wait job/", said)
        self.assertEqual(self.call(engine, self.endpoints_in_journal(daemon))[0], 200)
        harness.wait_until("the second job to end", lambda: daemon.engine("e")["state"] == "serving")

    def test_a_draft_model_has_a_session_of_its_own(self):
        import workers

        engine = self.engine(rank_commands=[workers.rank_command("D", sessions=2)])
        daemon = self.daemon()
        source = self.llama()
        daemon.add_engine("e", engine, "m")
        daemon.load("m@1", source)
        job = self.held(daemon, sessions=2)
        self.assertEqual(self.call(engine, job["zmq_handles"])[0], 200)
        ended = daemon.wait_job(job["id"])
        self.assertEqual(ended["state"], "succeeded", ended)
        (report,) = ended["result"]["engines"]
        self.assertEqual([lane["sessions"] for lane in report["lanes"]], [2, 2])
        self.assert_holds(engine, source)

    def test_a_session_more_than_was_said_raises_in_the_rank_and_does_not_hang(self):
        import workers

        engine = self.engine(rank_commands=[workers.rank_command("D", sessions=2)])
        daemon = self.daemon(SHORT)
        daemon.add_engine("e", engine, "m")
        daemon.load("m@1", self.llama())
        engine.fault("HOST-1", "connect_late", seconds=2, session=1)
        job = self.held(daemon)
        answered = self.background(self.call, engine, job["zmq_handles"])
        self.assertEqual(daemon.wait_job(job["id"])["state"], "succeeded")  # which is of the ranks' first sessions
        status, answer = answered(30)
        self.assertGreaterEqual(status, 400, answer)
        engine.wait_idle()
        again = self.held(daemon, sessions=2)
        self.assertEqual(self.call(engine, again["zmq_handles"])[0], 200)
        self.assertEqual(daemon.wait_job(again["id"])["state"], "succeeded")

    def test_a_session_too_many_is_waited_for_and_the_rank_named(self):
        daemon, engine, _ = self.serving(SHORT)
        job = self.held(daemon, sessions=2)
        self.call(engine, job["zmq_handles"])
        ended = daemon.wait_job(job["id"])
        self.assertEqual(ended["error"]["kind"], "timed_out", ended)
        self.assertRegex(ended["error"]["sentence"], r"rank of HOST-[01] \(pid \d+\) had 1 of 2 sessions")
        self.assertTrue(daemon.engine("e")["poisoned"])

    def test_nobody_comes(self):
        daemon, engine, source = self.serving(SHORT)
        job = self.held(daemon)
        ended = daemon.wait_job(job["id"], 30)
        self.assertEqual((ended["state"], ended["error"]["kind"]), ("failed", "timed_out"), ended)
        self.assertRegex(ended["error"]["sentence"], "no rank connected to .*HOST-|HOST-.*no rank connected to")
        self.assertEqual(daemon.engine("e")["poisoned"], "")
        # Who calls too late is told so by the ranks, which do not hang.
        status, answer = self.call(engine, job["zmq_handles"])
        self.assertGreaterEqual(status, 400, answer)
        engine.wait_idle()
        daemon.be_patient()
        again = self.held(daemon)
        self.assertNotEqual(again["zmq_handles"], job["zmq_handles"])
        self.assertEqual(self.call(engine, again["zmq_handles"])[0], 200)
        self.assertEqual(daemon.wait_job(again["id"])["state"], "succeeded")
        self.assert_holds(engine, source)

    def test_a_rank_that_raises_poisons_the_engine(self):
        daemon, engine, _ = self.serving()
        engine.fault("HOST-1", "fail_load", 1)
        job = self.held(daemon)
        self.assertGreaterEqual(self.call(engine, job["zmq_handles"])[0], 400)
        ended = daemon.wait_job(job["id"])
        self.assertEqual(ended["error"]["kind"], "peer_failed", ended)
        self.assertIn("HOST-1", ended["error"]["sentence"])
        self.assertTrue(daemon.engine("e")["poisoned"])
        engine.wait_idle()
        self.assertEqual(len(engine.calls()), 1, "ckptd called the engine itself")

    def test_two_nodes_whose_endpoints_are_handed_over_together(self):
        engine, source = self.engine(), self.llama()
        nodes = []
        for device in engine.devices:  # each daemon has its own device of the one engine
            node = self.daemon()
            node.add_engine("e", engine, "m", devices=[device])
            node.load("m@1", source)
            nodes.append(node)
        jobs = [self.held(node) for node in nodes]
        handles = {}
        for job in jobs:
            self.assertFalse(handles.keys() & job["zmq_handles"].keys())
            handles.update(job["zmq_handles"])
        status, answer = self.call(engine, handles)
        self.assertEqual(status, 200, answer)
        for node, job in zip(nodes, jobs):
            self.assertEqual(node.wait_job(job["id"])["state"], "succeeded")
            self.assertEqual(node.engine("e")["serving"], "m@1")
        self.assert_holds(engine, source)

    def test_the_daemon_is_killed_while_ranks_are_at_it(self):
        daemon, engine, source = self.serving({"timeouts": harness.HELD})
        for device in engine.devices:
            engine.hold(device, bucket=1)
        job = self.held(daemon)
        answered = self.background(self.call, engine, job["zmq_handles"])
        engine.wait_held()
        daemon.kill9()
        daemon.start()
        engine.go()
        self.assertGreaterEqual(answered()[0], 400)
        engine.wait_idle()
        self.assertTrue(daemon.engine("e")["poisoned"])
        daemon.load("m@1", source)
        again = self.held(daemon)
        self.assertEqual(self.call(engine, again["zmq_handles"])[0], 200)
        self.assertEqual(daemon.wait_job(again["id"])["state"], "succeeded")
        self.assert_holds(engine, source)
        self.assertEqual(daemon.engine("e")["poisoned"], "")

    def test_the_daemon_is_killed_before_anybody_has_come(self):
        daemon, engine, source = self.serving()
        job = self.held(daemon)
        daemon.kill9()
        daemon.start()
        self.assertGreaterEqual(self.call(engine, job["zmq_handles"])[0], 400)
        engine.wait_idle()
        self.assertEqual(daemon.engine("e")["poisoned"], "", "nothing was sent")

    def test_what_is_the_callers_to_say_is_refused(self):
        daemon, _, _ = self.serving()
        self.assert_fails(daemon.ctl("update", "m@1", "--trigger", "external", "--pause", "abort"), "invalid_argument",
                          "pause", "whoever calls the engine")
        status, answer = daemon.http("POST", "/v1/updates", {"checkpoint": "m@1", "trigger": "me"})
        self.assertEqual(status, 400, answer)


if __name__ == "__main__":
    harness.main()
