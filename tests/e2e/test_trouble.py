"""What is known to go wrong (docs/engines.md) is refused before a server is touched, and goes on when it is forced; what was
said with a version, force and label, is said again when it is given again."""

import json
import os

import harness
from harness import checkpoints

QUICK = {"watch": {"poll": "200ms", "poll_slowest": "500ms", "retry": "500ms", "retry_slowest": "2s"}}


class Trouble(harness.Case):
    def troubled(self, kind, checkpoint, *arguments, follow=False):
        """A daemon that has looked at an engine, and m@1 that the engine is known to break."""
        engine = self.engine(kind=kind, arguments=arguments)
        daemon = self.daemon(QUICK)
        daemon.load("m@1", checkpoint)
        daemon.add_engine("e", engine, "m", follow=follow, target="m@1" if follow else None)
        harness.wait_until("the daemon to have looked at e", lambda: daemon.engine("e")["server"])
        return daemon, engine

    def fp8(self, name="fp8", seed=1):
        return checkpoints.make_fp8(self.path(name), seed)

    def wait_serving(self, daemon, version="m@1"):
        harness.wait_until(f"e to serve {version}", lambda: (lambda engine: (
            engine["state"], engine["serving"], engine["ready"]) == ("serving", version, True))(daemon.engine("e")), 30)

    def label(self, engine):
        return engine.http("GET", "/model_info")[1]["weight_version"]

    def test_refused_before_it_is_touched_and_forced(self):
        source = self.fp8()
        daemon, engine = self.troubled("sglang", source)
        for flags in ((), ("--dry-run",), ("--trigger", "external")):
            refused = daemon.ctl("update", "m@1", *flags)
            self.assert_fails(refused, "conflict", "e is not given m@1", "SGLang is reported to load this wrongly",
                              "sgl-project/sglang#30749", "ckptctl update m@1 --engine e --force")
            self.assertEqual(refused.error["facts"]["known_trouble"], "sglang-fp8")
        status, answer = daemon.http("POST", "/v1/updates", {"checkpoint": "m@1", "engines": ["e"]})
        self.assertEqual((status, answer["error"]["kind"]), (409, "conflict"))
        self.assertFalse(engine.calls())

        preview = daemon.must("update", "m@1", "--force", "--dry-run")
        self.assertIn("sglang-fp8", preview["engines"][0]["warnings"][0])
        job = daemon.must("update", "m@1", "--force")
        self.assert_holds(engine, source)
        self.assertIn("it was forced", job["result"]["engines"][0]["warnings"][-1])
        self.assertTrue([note for note in daemon.job(job["id"])["record"]["notes"] if note.startswith("e: it was forced")])
        text = daemon.ctl("engine", "show", "e", json_output=False).stdout
        self.assertIn("m@1, forced", text)
        self.assertIn("its target was forced", text)

    def test_a_server_that_nobody_has_looked_at_is_asked_in_the_job(self):
        engine = self.engine(kind="sglang")
        daemon = self.daemon({"watch": {"poll": "60s", "poll_slowest": "60s"}})
        daemon.load("m@1", self.fp8())
        engine.kill9()  # so that the first look finds nobody
        daemon.add_engine("e", engine, "m")
        harness.wait_until("the look", lambda: "cannot connect" in daemon.engine("e")["why"])
        engine.start_again()
        self.assert_fails(daemon.ctl("update", "m@1"), "conflict", "was not touched", "sglang-fp8")
        self.assertFalse(engine.calls())
        self.assertEqual(daemon.engine("e")["poisoned"], "")

    def test_by_itself_it_says_what_to_type_and_remembers_it_at_night(self):
        source = self.fp8()
        daemon, engine = self.troubled("sglang", source, follow=True)
        shown = harness.wait_until("e to tell", lambda: (lambda now: now["next"] == "tell" and now)(daemon.engine("e")))
        self.assertIn("is not given m@1 by itself", shown["why"])
        self.assertIn("ckptctl update m@1 --engine e --force", shown["why"])
        self.assertIn("ckptctl update m@1 --engine e --force", daemon.ctl("status", json_output=False).stdout)
        self.assertFalse(engine.calls())

        daemon.must("update", "m@1", "--engine", "e", "--force")
        self.wait_serving(daemon)
        daemon.terminate()
        with open(os.path.join(daemon.state_dir, "state.json"), encoding="utf-8") as file:
            (record,) = json.load(file)["engines"]
        self.assertIs(record["target"]["forced"], True)
        daemon.start()
        daemon.load("m@1", source)
        self.wait_serving(daemon)
        calls = len(engine.calls())
        engine.kill9()
        engine.start_again()
        harness.wait_until("the restarted server to be given m@1", lambda: engine.calls(), 30)
        self.wait_serving(daemon)
        self.assertGreaterEqual(calls, 1)
        self.assert_holds(engine, source)

    def test_another_way_or_another_server_is_not_refused(self):
        experts = checkpoints.make_experts(self.path("experts"))
        daemon, engine = self.troubled("vllm", experts)
        self.assert_fails(daemon.ctl("update", "m@1"), "conflict", "vllm-project/vllm#42821", "--moe-backend triton")
        self.assertFalse(engine.calls())
        engine.post("/standin/restart", arguments=["--moe-backend", "triton"], seconds=0)
        harness.wait_until("the other server to be seen", lambda: daemon.ctl("update", "m@1").code == 0, 30)
        self.assert_holds(engine, experts)

    def test_a_version_that_is_repaired(self):
        source = self.llama(megabytes=1)
        daemon, engine = self.troubled("sglang", source, "--speculative", "NGRAM", "--version", "0.5.22")
        self.assert_fails(daemon.ctl("update", "m@1"), "conflict", "take SGLang 0.5.23 or newer")
        engine.post("/standin/restart", arguments=["--version", "0.5.23"], seconds=0)
        harness.wait_until("the newer server to be seen", lambda: daemon.engine("e")["server"] == "0.5.23", 30)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_a_label_of_ones_own_is_used_again(self):
        engine = self.engine()
        daemon = self.daemon(QUICK)
        first = self.llama(megabytes=1)
        second = self.second(first)
        daemon.load("m@1", first)
        daemon.load("m@2", second)
        daemon.add_engine("e", engine, "m", follow=True)
        daemon.must("update", "m@1", "--weight-version", "step-120")
        self.wait_serving(daemon)
        self.assertEqual(self.label(engine), "step-120")
        self.assertIn("m@1, as weight version step-120", daemon.ctl("engine", "show", "e", json_output=False).stdout)

        daemon.terminate()
        engine.kill9()
        daemon.start()
        daemon.load("m@1", first)
        daemon.load("m@2", second)
        engine.start_again()
        self.wait_serving(daemon)
        self.assertEqual(self.label(engine), "step-120")

        engine.fault("HOST-1", "fail_load", 0)  # a mixture, and the last good version again
        self.assert_fails(daemon.ctl("update", "m@2"), "peer_failed", "it was given m@1 again")
        self.assertEqual(self.label(engine), "step-120")
        daemon.must("update", "m@2")
        self.assertEqual(self.label(engine), "2")
        daemon.must("rollback", "--engine", "e")
        self.assertEqual(self.label(engine), "step-120")
        self.assert_holds(engine, first)

    def test_whoever_calls_a_server_with_a_draft_model_is_told(self):
        daemon, engine = self.troubled("sglang", self.llama(megabytes=1), "--draft-models", "1")
        said = daemon.ctl("update", "m@1", "--engine", "e", "--trigger", "external", json_output=False)
        self.assertEqual(said.code, 0, str(said))
        self.assertIn("warning: e: its server says that it has 1 draft model", said.stdout)
        self.assertIn("--sessions 2", said.stdout)
        (job,) = daemon.must("status")["running_jobs"]
        (handles,) = daemon.job(job)["engines"]
        self.assertEqual(len(handles["warnings"]), 1)
        daemon.ctl("job", "cancel", job, "--force")
        ended = daemon.wait_job(job)
        self.assertTrue([note for note in ended["record"]["notes"] if "draft model" in note], ended["record"]["notes"])

        answer = daemon.must("update", "m@1", "--engine", "e", "--trigger", "external", "--sessions", "2")
        self.assertNotIn("warnings", answer["engines"][0])
        daemon.ctl("job", "cancel", answer["id"], "--force")

    def test_a_server_that_cannot_be_reached_is_no_hindrance(self):
        daemon, engine = self.troubled("sglang", self.llama(megabytes=1))
        engine.kill9()
        answer = daemon.must("update", "m@1", "--engine", "e", "--trigger", "external")
        self.assertTrue(answer["zmq_handles"])
        self.assertNotIn("warnings", answer["engines"][0])
        daemon.ctl("job", "cancel", answer["id"], "--force")


if __name__ == "__main__":
    harness.main()
