"""scripts/engine-check itself: without a GPU it says so, rehearsed with stand-ins each check works, and what it asks of a real
server and reads from its answers."""

import http.server
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import types
import unittest

import harness
from harness import checkpoints

PROGRAM = os.path.join(harness.ROOT, "scripts", "engine-check")
sys.path.insert(0, os.path.join(harness.ROOT, "scripts", "lib"))
LOADER = importlib.machinery.SourceFileLoader("engine_check_program", PROGRAM)
program = importlib.util.module_from_spec(importlib.util.spec_from_loader(LOADER.name, LOADER))
LOADER.exec_module(program)

from checks import place  # noqa: E402
from engine_check import beside, servers  # noqa: E402

CHECKS = ["programs", "cold-first", "cold-other", "first-weights", "update", "rollback", "server-killed", "daemon-killed"]


class EngineCheck(harness.Case):
    def setUp(self):
        super().setUp()
        self.first = self.llama("first", megabytes=4, shards=2)
        self.other = self.second(self.first, "other")

    def run_it(self, kind, *arguments, seconds=300, models=True):
        """(exit status, output, the JSON file)"""
        figures = self.path("figures.json")
        models = ["--model", self.first, "--other", self.other] if models else []
        done = subprocess.run(
            [sys.executable, "-B", PROGRAM, kind, *models, "--build", os.path.dirname(harness.BIN_DIR), "--json", figures,
             *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=seconds * harness.PATIENCE, preexec_fn=harness.die_with_parent)
        document = None
        if os.path.exists(figures):
            with open(figures, encoding="utf-8") as file:
                document = json.load(file)
        return done.returncode, done.stdout, document

    def check_rehearsal(self, kind):
        status, output, document = self.run_it(kind, "--rehearse", seconds=600)
        self.assertEqual(status, 0, output)
        self.assertIn("this says nothing about a live server", output)
        self.assertTrue(document["rehearsal"] and document["finished"])
        self.assertEqual([check["name"] for check in document["checks"]], CHECKS)
        for check in document["checks"]:
            self.assertEqual(check["status"], "passed", check)
            self.assertNotIn("processes_left_behind", check["measured"], check)
        killed = document["checks"][-1]
        self.assertIn("killed while it pushed", killed["sentence"])

    def test_a_rehearsal_with_sglang(self):
        self.check_rehearsal("sglang")

    def test_a_rehearsal_with_vllm(self):
        self.check_rehearsal("vllm")

    def test_without_a_gpu_or_a_server_nothing_is_checked(self):
        status, output, document = self.run_it("sglang", "--python", sys.executable)
        self.assertEqual(status, 77, output)
        self.assertIn("nothing could be checked against a server", output)
        self.assertEqual({check["status"] for check in document["checks"]}, {"skipped"})
        self.assertIn("name with --python", document["checks"][0]["sentence"])

    def test_wrong_usage(self):
        empty = self.path("empty")
        os.mkdir(empty)
        for arguments, word in (
                (["--model", "/none", "--other", self.other], "--model: there is no directory /none"),
                (["--model", self.first, "--other", empty], f"--other: {empty} holds no safetensors file"),
                (["--model", self.first, "--other", self.first], "an update could not be seen"),
                (["--model", self.first, "--other", self.other, "--only", "moon", "--rehearse"], "there is no check moon"),
                (["--model", self.first, "--other", self.other, "--json", "/none/f.json"], "/none cannot be written"),
                (["--model", self.first, "--other", self.other, "--server-args", "--tp two"], "--tp needs a number"),
                (["--model", self.first], "--other")):
            status, output, _ = self.run_it("vllm", *arguments, models=False)
            self.assertEqual(status, 2, output)
            self.assertIn(word, output)
        status, output, _ = self.run_it("vllm", "--list")
        self.assertEqual(status, 0)
        self.assertEqual([line.split()[0] for line in output.splitlines()], CHECKS)


class Commands(unittest.TestCase):
    """The flags of docs/engines.md, and greedy completions as the servers answer them."""

    def server(self, kind, dummy, port=1, more=()):
        return servers.KINDS[kind]("/m", dummy, port, os.devnull, "/v/python", more, 900)

    def test_sglang(self):
        words = " ".join(self.server("sglang", True, 30000, ["--tp", "2"]).command())
        self.assertEqual(words, "/v/python -m sglang.launch_server --model-path /m --host 127.0.0.1 --port 30000 "
                         "--load-format dummy --checkpoint-engine-wait-weights-before-ready --tp 2")
        self.assertEqual(self.server("sglang", True).variables(), {"SGLANG_WAIT_WEIGHTS_READY_TIMEOUT": "900"})
        self.assertNotIn("dummy", self.server("sglang", False).command())
        self.assertEqual(self.server("sglang", False).variables(), {})

    def test_vllm(self):
        words = " ".join(self.server("vllm", True, 8000).command())
        self.assertIn("--load-format dummy --worker-extension-cls checkpoint_engine.worker.VllmColocateWorkerExtension", words)
        self.assertEqual(self.server("vllm", True).variables(), {"VLLM_SERVER_DEV_MODE": "1"})
        self.assertNotIn("dummy", self.server("vllm", False).command())

    def test_ranks_of_the_server_arguments(self):
        for words, count in (([], 1), (["--tp", "2"], 2), (["--tensor-parallel-size=4"], 4), (["--tp-size", "8"], 8)):
            self.assertEqual(program.ranks(words), count)
        with self.assertRaises(place.Wrong):
            program.ranks(["--tp"])

    def test_greedy_output(self):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append((self.path, body))
                answer = {"text": body.get("text", "") + " there"} if self.path == "/generate" else {
                    "choices": [{"text": body["prompt"] + " here"}]}
                content = json.dumps(answer).encode()
                self.send_response(200 if len(asked) < 7 else 503)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        listener = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        self.addCleanup(listener.server_close)
        self.addCleanup(listener.shutdown)
        port = listener.server_address[1]
        self.assertEqual(self.server("sglang", False, port).output(), [prompt + " there" for prompt in servers.PROMPTS])
        self.assertEqual(self.server("vllm", False, port).output(), [prompt + " here" for prompt in servers.PROMPTS])
        for _, body in asked:
            self.assertEqual(body.get("temperature", body.get("sampling_params", {}).get("temperature")), 0)
        with self.assertRaisesRegex(AssertionError, "/generate was answered 503"):
            self.server("sglang", False, port).output()

    def test_another_output_than_that_of_the_cold_start_fails(self):
        both = object.__new__(beside.Beside)
        both.context = types.SimpleNamespace(measured=lambda check, name: {"cold-other": ["a", "b"]}[check])
        both.server = types.SimpleNamespace(output=lambda: ["a", "b"])
        both.must_answer_as("cold-other")
        both.server = types.SimpleNamespace(output=lambda: ["a", "c"])
        with self.assertRaisesRegex(AssertionError, "differs from the cold start .cold-other.: 'c' instead of 'b'"):
            both.must_answer_as("cold-other")

    def test_a_server_that_ends_or_does_not_come(self):
        folder = tempfile.TemporaryDirectory(prefix="engine-check-test-")
        self.addCleanup(folder.cleanup)
        server = servers.rehearsed("sglang", "/none", ["HOST-0"], "/none", [])(
            "/m", True, servers.free_port(), os.path.join(folder.name, "log"), start_seconds=20 * harness.PATIENCE)
        server.start()
        self.addCleanup(server.end)
        with self.assertRaisesRegex(AssertionError, "sglang ended with 2 before it came to listen: .*No such file"):
            server.wait_listening()


if __name__ == "__main__":
    harness.main()
