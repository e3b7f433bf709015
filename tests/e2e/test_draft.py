"""Engines whose ranks come back for another session while the call is open, as SGLang's do for the worker of a draft model.
With the real worker of the oldest and of the newest dialect, or with the reference rank."""

import json
import os
import subprocess

import harness
import workers

# What the failing updates here meet; the next one, which is to succeed, has the time of harness.Daemon.DEFAULTS.
SHORT = {"timeouts": {"reload": "5s", "release": "8s", "finish": "5s"}, "push": {"bucket": "512KiB"}}
AN_ENGINE_THAT_HANGS = {"answer_grace": "500ms"}  # does not answer in it either
RAISED = "told to fail" if harness.RANKS == "torch" else "the fault fail_load"


class Draft:
    dialect = ""

    @classmethod
    def make_engine(cls):
        return harness.Engine(rank_commands=[workers.rank_command(cls.dialect, sessions=2)])

    def start(self, config=None):
        daemon = self.daemon({**SHORT, **(config or {})})
        daemon.add_engine("e", self.shared, "m", devices=("HOST-0", "HOST-1"))
        daemon.load("m@1", self.source)
        return daemon

    def heals(self, daemon):
        self.shared.go()
        self.shared.wait_idle()
        harness.wait_until("the custodian to let go", lambda: not daemon.http("GET", "/v1/status")[1]["in_custody"], 40)
        self.shared.reset()
        daemon.be_patient()
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)
        engine = daemon.engine("e")
        self.assertEqual((engine["serving"], engine["poisoned"]), ("m@1", ""))

    def check_updates(self, fan_out):
        daemon = self.start({"push": {"bucket": "512KiB", "fan_out": fan_out}})
        before = {device: state["sessions"] for device, state in self.shared.rank_states().items()}
        for version, source in (("m@1", self.source), ("m@2", self.second(self.source))):
            if version == "m@2":
                daemon.load(version, source)
            (report,) = daemon.must("update", version)["result"]["engines"]
            self.assertEqual([lane["sessions"] for lane in report["lanes"]], [2, 2])
            self.assert_holds(self.shared, source)  # the draft model too
            self.assertEqual(daemon.engine("e")["serving"], version)
        self.assertFalse(daemon.rank_sockets())
        for device, state in self.shared.rank_states().items():
            self.assertEqual(state["sessions"] - before[device], 4, device)

    def test_every_session_gets_everything_when_buckets_were_broadcast(self):
        self.check_updates("broadcast")

    def test_every_session_gets_everything_with_independent_lanes(self):
        self.check_updates("independent")

    def test_a_draft_session_that_fails_poisons_the_engine(self):
        daemon = self.start()
        self.shared.fault("HOST-0", "fail_load", 1, session=1)
        answer = daemon.ctl("update", "m@1")
        self.assert_fails(answer, "peer_failed", "HOST-0", RAISED)
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.heals(daemon)

    def test_a_rank_that_stalls_in_its_draft_session_is_a_time_out(self):
        daemon = self.start({"timeouts": {**SHORT["timeouts"], **AN_ENGINE_THAT_HANGS}})
        self.shared.hold("HOST-1", session=1)
        self.assert_fails(daemon.ctl("update", "m@1"), "timed_out", "HOST-1")
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.heals(daemon)

    def test_a_rank_that_is_slow_to_come_back_is_waited_for(self):
        daemon = self.start({"timeouts": harness.HELD})
        self.shared.fault("HOST-1", "connect_late", seconds=2, session=1)
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)

    def test_a_rank_that_comes_back_after_the_update_was_given_up_is_not_left_waiting(self):
        daemon = self.start({"timeouts": {**SHORT["timeouts"], **AN_ENGINE_THAT_HANGS}})
        self.shared.hold("HOST-1", "connect_late", session=1)
        self.assert_fails(daemon.ctl("update", "m@1"), "timed_out", "did not answer")
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.shared.wait_held("HOST-1")
        self.heals(daemon)

    def test_another_process_that_comes_after_a_rank_has_finished_is_an_error(self):
        daemon = self.start({"timeouts": {**harness.HELD, **AN_ENGINE_THAT_HANGS}})
        self.shared.hold("HOST-1", "connect_late", session=1)
        job = daemon.detached("update", "m@1")
        harness.wait_until("the first rank to have had both sessions",
                           lambda: "came back" in daemon.job(job).get("stage", ""), 20)
        self.shared.wait_held("HOST-1")
        (endpoint,) = [call["handles"]["HOST-1"] for call in self.shared.calls()[-1:]]
        stranger = self.background(self.another_rank, endpoint)
        ended = daemon.wait_job(job)
        self.assertEqual(ended["state"], "failed")
        self.assertIn("another process", ended["error"]["sentence"])
        self.shared.go()
        self.assertFalse(stranger(20)["ok"])
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.heals(daemon)

    def another_rank(self, endpoint):
        rank = subprocess.Popen([harness.REFERENCE_RANK, "--device", "HOST-1"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True, preexec_fn=harness.die_with_parent)
        rank.stdin.write(json.dumps({"cmd": "update", "endpoint": endpoint}) + "\n")
        rank.stdin.flush()
        answer = json.loads(rank.stdout.readline())
        rank.communicate(timeout=20)
        return answer

    def test_the_daemon_is_killed_between_two_sessions(self):
        daemon = self.start({"timeouts": {**harness.HELD, "custody": "20s"}})
        for device in ("HOST-0", "HOST-1"):
            self.shared.hold(device, "connect_late", session=1)
        job = daemon.detached("update", "m@1")
        self.shared.wait_held()
        harness.wait_until("the ranks to have finished their first session",
                           lambda: "answer" in daemon.job(job).get("stage", ""), 20)
        with open(os.path.join(daemon.state_dir, "state.json"), encoding="utf-8") as file:
            (update,) = json.load(file)["updates"]
        self.assertEqual(len(update["sessions"]), 2, "the endpoints stay written down until the engine has answered")
        daemon.kill9()
        self.assertFalse(self.shared.idle(), "the kill came too late to test anything")
        daemon.start()
        self.shared.go()
        self.shared.wait_idle(15)
        self.assertGreaterEqual(self.shared.calls()[-1]["status"], 400)
        self.assertTrue(daemon.engine("e")["poisoned"])
        daemon.load("m@1", self.source)
        self.heals(daemon)


class DraftA(Draft, harness.OneEngine):
    dialect = "A"


class DraftD(Draft, harness.OneEngine):
    dialect = "D"


if __name__ == "__main__":
    harness.main()
