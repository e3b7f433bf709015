"""The stand-in servers keep to what docs/standins.md says of them. No daemon: the same requests that it sends."""

import os
import unittest

import harness

# A rank that is quick to start: update ends as its endpoint says, and checksums are its device's name.
RANK = r"""
import json, sys, time
updates, fault = 0, "none"
for line in sys.stdin:
    request = json.loads(line)
    command = request["cmd"]
    if command == "update":
        updates += 1
        how, _, value = request["endpoint"].partition(":")
        time.sleep(float(value) if how == "sleep" else 0)
        answer = {"ok": False, "error": "Traceback\nRuntimeError: told to fail"} if how == "fail" else {"ok": True}
    elif command == "state":
        answer = {"tensors": 0, "updates": updates, "buckets": 0}
    elif command == "checksums":
        answer = {"checksums": {"a": sys.argv[-1] + str(updates)}}
    else:
        answer = {"ok": True}
    print(json.dumps(answer), flush=True)
"""


class Standins(harness.Case):
    def engine(self, kind, *arguments, **options):
        path = os.path.join(self.directory, "rank.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(RANK)
        engine = harness.Engine(kind=kind, arguments=list(arguments), rank_commands=[f"python3 {path}"], **options)
        self.addCleanup(engine.close)
        return engine

    def update(self, engine, one="ok", two="ok", headers=None, **fields):
        handles = {"HOST-0": one, "HOST-1": two}
        if engine.kind == "vllm":
            body = {"method": "update_weights_from_ipc", "args": [handles], "kwargs": {}, "timeout": 30.0, **fields}
            return engine.http("POST", "/collective_rpc", body, headers=headers)
        return engine.http("POST", "/update_weights_from_ipc", {"zmq_handles": handles, **fields}, headers=headers)

    def get(self, engine, path, headers=None):
        return engine.http("GET", path, headers=headers)

    # -- what they share

    def test_a_restart_is_another_process_at_the_same_address_with_new_ranks_and_the_first_label(self):
        for unix in (False, True):
            engine = self.engine("sglang", unix=unix)
            self.assertEqual(self.update(engine, weight_version="7")[0], 200)
            before = engine.state()
            self.assertEqual(before["weight_version"], "7")
            engine.post("/standin/restart", seconds=0.1, arguments=["--starting", "3600"])

            def is_new():
                try:
                    return engine.state()["pid"] != before["pid"]
                except (OSError, ValueError):
                    return False

            harness.wait_until("the new process", is_new)
            after = engine.state()
            self.assertTrue(after["starting"])
            self.assertEqual(after["weight_version"], "default")
            self.assertNotEqual([rank["pid"] for rank in after["ranks"]], [rank["pid"] for rank in before["ranks"]])
            engine.post("/standin/started")
            self.assertEqual(self.get(engine, "/ping")[0], 200)

    def test_a_late_start_answers_503(self):
        for kind, path in (("sglang", "/ping"), ("vllm", "/health"), ("lmdeploy", "/health")):
            engine = self.engine(kind, "--starting", "3600")
            self.assertEqual(self.get(engine, path)[0], 503, kind)
            engine.post("/standin/started")
            self.assertEqual(self.get(engine, path)[0], 200, kind)

    def test_draft_models_open_more_sessions(self):
        engine = self.engine("sglang", "--draft-models", "2")
        self.assertEqual(self.update(engine)[0], 200)
        self.assertEqual(engine.rank_states()["HOST-0"]["updates"], 3)
        info = self.get(engine, "/server_info")[1]
        self.assertEqual((info["enable_multi_layer_eagle"], info["speculative_num_steps"]), (True, 2))

    def test_a_route_that_is_not_there_and_a_method_that_is_not(self):
        engine = self.engine("sglang")
        self.assertEqual(self.get(engine, "/nothing"), (404, {"detail": "Not Found"}))
        self.assertEqual(self.get(engine, "/pause_generation"), (405, {"detail": "Method Not Allowed"}))

    # -- SGLang

    def test_sglang_answers_with_its_first_rank_alone(self):
        engine = self.engine("sglang")
        self.assertEqual(self.update(engine, two="fail")[0], 200)
        self.assertEqual(self.update(engine, one="fail")[0], 400)
        engine.misbehave("wrong_uuid", device="HOST-1")
        self.assertEqual(self.update(engine)[0], 200)
        engine.misbehave("wrong_uuid")
        status, answer = self.update(engine)
        self.assertEqual((status, answer["success"]), (400, False))
        self.assertIn("not found in zmq_handles", answer["message"])

    def test_sglang_keys(self):
        bearer = lambda key: {"Authorization": f"Bearer {key}"}  # noqa: E731
        engine = self.engine("sglang", "--admin-api-key", "admin", api_key="api")
        for path, key, status in (("/ping", "api", 200), ("/ping", "admin", 401), ("/model_info", "api", 200),
                                  ("/ready", "none", 200), ("/health", "none", 200)):
            self.assertEqual(self.get(engine, path, bearer(key))[0], status, (path, key))
        self.assertEqual(self.update(engine, headers=bearer("api")), (401, {"error": "Unauthorized"}))
        self.assertEqual(self.update(engine, headers=bearer("admin"))[0], 200)
        only_admin = self.engine("sglang", "--admin-api-key", "admin")
        self.assertEqual(self.get(only_admin, "/ping")[0], 200)
        self.assertEqual(self.update(only_admin)[0], 401)

    def test_sglang_pauses(self):
        engine = self.engine("sglang")
        for mode in ("abort", "retract", "in_place"):
            self.assertEqual(engine.post("/pause_generation", mode=mode)["status"], "ok")
            self.assertEqual((self.get(engine, "/ready")[0], self.get(engine, "/ping")[0]), (503, 200))
        engine.post("/standin/requests", running=2)
        status, answer = self.update(engine)
        self.assertEqual(status, 400)
        self.assertIn("cache was not flushed", answer["message"])
        self.assertEqual(self.update(engine, flush_cache=False)[0], 200)
        engine.post("/continue_generation")
        self.assertEqual(self.get(engine, "/ready")[0], 200)
        self.assertEqual(engine.http("POST", "/pause_generation", {"mode": "keep"})[0], 400)

    def test_sglang_waits_for_weights_and_gives_up(self):
        engine = self.engine("sglang", "--wait-weights", "60")
        self.assertEqual(self.get(engine, "/ping")[0], 503)
        self.assertEqual(self.update(engine)[0], 200)
        self.assertEqual(self.get(engine, "/ping")[0], 200)
        impatient = self.engine("sglang", "--wait-weights", "0.3", "--load-format", "dummy")
        harness.wait_until("it to give up", lambda: self.get(impatient, "/ping")[0] == 200)
        self.assertTrue(self.get(impatient, "/server_info")[1]["checkpoint_engine_wait_weights_before_ready"])

    def test_sglang_memory(self):
        engine = self.engine("sglang", "--memory-saver")
        self.assertEqual(engine.http("POST", "/release_memory_occupation", {})[0], 200)
        self.assertEqual(engine.http("POST", "/resume_memory_occupation", {"tags": ["weights"]})[0], 200)
        self.assertEqual(self.update(engine)[0], 200)
        engine.http("POST", "/release_memory_occupation", {"tags": ["weights"]})
        status, answer = self.update(engine)
        self.assertEqual(status, 400)
        self.assertIn("died", answer["message"])

    def test_sglang_old_and_new_spellings(self):
        old = self.engine("sglang", "--old")
        self.assertEqual([self.get(old, path)[0] for path in ("/model_info", "/get_model_info", "/ready")], [404, 200, 404])
        new = self.engine("sglang")
        self.assertEqual([self.get(new, path)[0] for path in ("/model_info", "/get_model_info", "/ready")], [200] * 3)

    def test_sglang_checksums_and_labels(self):
        engine = self.engine("sglang")
        answer = engine.post("/weights_checker", action="checksum")
        self.assertEqual([rank["checksums"]["a"] for rank in answer["ranks"]], ["HOST-00", "HOST-10"])
        self.assertEqual(self.get(engine, "/model_info")[1]["weight_version"], "default")
        engine.post("/update_weight_version", new_version="7")
        self.assertEqual(self.get(engine, "/model_info")[1]["weight_version"], "7")

    # -- vLLM

    def test_vllm_answers_for_every_worker(self):
        engine = self.engine("vllm")
        self.assertEqual(self.update(engine), (200, {"results": [None, None]}))
        status, answer = self.update(engine, two="fail")
        self.assertEqual((status, answer["error"]["type"]), (500, "InternalServerError"))
        self.assertIn("told to fail", answer["error"]["message"])
        engine.misbehave("wrong_uuid", device="HOST-1")
        self.assertIn("'GPU-ffffffff'", self.update(engine)[1]["error"]["message"])
        self.assertEqual(engine.http("POST", "/collective_rpc", {})[0], 400)

    def test_vllm_without_what_it_needs(self):
        self.assertEqual(self.update(self.engine("vllm", "--no-dev-mode")), (404, {"detail": "Not Found"}))
        status, answer = self.update(self.engine("vllm", "--no-extension"))
        self.assertEqual(status, 500)
        self.assertIn("Method 'update_weights_from_ipc' is not implemented.", answer["error"]["message"])

    def test_vllm_guards_v1_and_nothing_of_an_update(self):
        engine = self.engine("vllm", api_key="secret")
        self.assertEqual(self.get(engine, "/v1/models"), (401, {"error": "Unauthorized"}))
        self.assertEqual(self.get(engine, "/v1/models", {"Authorization": "Bearer secret"})[0], 200)
        self.assertEqual(self.update(engine)[0], 200)

    def test_vllm_says_that_it_sleeps_when_it_is_paused(self):
        engine = self.engine("vllm", "--sleep-mode")
        truths = lambda: [next(iter(self.get(engine, path)[1].values())) for path in ("/is_sleeping", "/is_paused")]  # noqa: E731
        self.assertEqual(truths(), [False, False])
        engine.post("/pause?mode=keep")
        self.assertEqual(truths(), [True, True])
        engine.post("/resume")
        self.assertEqual(engine.http("POST", "/sleep?level=2", {})[0], 200)
        self.assertEqual(truths(), [True, True])
        self.assertEqual(engine.http("POST", "/wake_up?tags=weights", {})[0], 200)
        self.assertEqual(truths(), [True, True])
        self.assertEqual(engine.http("POST", "/wake_up?tags=kv_cache", {})[0], 200)
        self.assertEqual(truths(), [False, False])

    # -- LMDeploy

    def test_lmdeploy_takes_weights_only_while_it_sleeps(self):
        engine = self.engine("lmdeploy")
        self.assertFalse(self.get(engine, "/update_weights_from_ipc")[1]["ready"])
        self.assertIn("not prepared", self.update(engine)[1]["message"])
        engine.http("POST", "/sleep?level=1", {"a": 1})
        self.assertFalse(self.get(engine, "/update_weights_from_ipc")[1]["ready"])
        engine.http("POST", "/wakeup?tags=weights", {"a": 1})
        self.assertTrue(self.get(engine, "/update_weights_from_ipc")[1]["ready"])
        self.assertEqual(self.update(engine)[0], 200)
        self.assertEqual(self.get(engine, "/health")[1]["status"], "sleeping")
        engine.http("POST", "/wakeup?tags=kv_cache", {"a": 1})
        self.assertEqual(self.get(engine, "/health")[1]["status"], "healthy")

    def test_lmdeploy_started_empty_is_ready_at_once(self):
        engine = self.engine("lmdeploy", "--empty-init")
        status = self.get(engine, "/update_weights_from_ipc")[1]
        self.assertEqual((status["ready"], status["sleeping_tags"]), (True, ["kv_cache", "weights"]))
        self.assertEqual(self.update(engine)[0], 200)
        self.assertEqual(self.get(engine, "/update_weights_from_ipc")[1]["sleeping_tags"], ["kv_cache"])

    def test_lmdeploy_without_what_it_needs(self):
        self.assertEqual(self.update(self.engine("lmdeploy", "--backend", "turbomind"))[0], 501)
        answer = self.get(self.engine("lmdeploy", "--no-checkpoint-engine"), "/update_weights_from_ipc")[1]
        self.assertIsNone(answer["checkpoint_engine_version"])
        guarded = self.engine("lmdeploy", api_key="secret")
        self.assertEqual([self.get(guarded, path)[0] for path in ("/health", "/is_sleeping")], [200, 401])


if __name__ == "__main__":
    unittest.main(verbosity=2)
