"""A server under check: SGLang or vLLM as it is installed, or in a rehearsal the stand-in of that kind.

The flags and routes are those of the real servers as their sources and documents tell them. Not run against a live server.
"""

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

from checks.frame import step

PROMPTS = ("The capital of France is", "def fibonacci(n):", "1, 2, 3, 5, 8, 13,")
TOKENS = 32
SERVED_NAME = "engine-check"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server process in a group of its own, at one port for its whole life, restarts included."""

    kind = package = None

    def __init__(self, model, dummy, port, log_path, python=sys.executable, more=(), start_seconds=900):
        self.model, self.dummy, self.port, self._log_path = model, dummy, port, log_path
        self.python, self.more, self.start_seconds = python, list(more), start_seconds
        self.process = None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    # -- what the kinds say

    def command(self):
        raise NotImplementedError

    def variables(self):
        return {}

    def generation(self, prompt):
        """(path, body, function of the answer) of a greedy completion."""
        raise NotImplementedError

    # -- its life

    def start(self):
        command = self.command()
        print("+ " + " ".join([f"{name}={value}" for name, value in self.variables().items()] + [shlex.join(command)]),
              file=sys.stderr, flush=True)
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                            env={**os.environ, **self.variables()}, start_new_session=True)
        return self

    def wait_listening(self):
        """Until it answers HTTP: its ranks can be given weights then, whether it serves yet or not."""
        step(f"{self.kind} to listen at {self.endpoint}")
        self._wait("listen", lambda: self.request("GET", "/health")[0])

    def wait_serving(self):
        step(f"{self.kind} to serve at {self.endpoint}")
        self._wait("serve", lambda: self.request("GET", "/health")[0] == 200)

    def _wait(self, what, done):
        deadline = time.monotonic() + self.start_seconds
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.kind} ended with {self.process.returncode} before it came to {what}: "
                                     f"{self.last_line()}")
            try:
                if done():
                    return
            except (OSError, http.client.HTTPException):
                pass  # it does not listen yet
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.kind} did not come to {what} within {self.start_seconds:g} s: {self.last_line()}")
            time.sleep(0.25)

    def kill(self):
        """The server with all its processes, at once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(30)

    def end(self, seconds=30):
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(seconds)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    # -- what is asked of it

    def request(self, method, path, body=None, seconds=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def output(self):
        """The greedy completion of each prompt."""
        step("greedy output")
        texts = []
        for prompt in PROMPTS:
            path, body, text_of = self.generation(prompt)
            status, answer = self.request("POST", path, body, 180)
            if status != 200:
                raise AssertionError(f"{path} was answered {status}: {answer[:300].decode('utf-8', 'replace')}")
            texts.append(text_of(json.loads(answer)))
        return texts

    def log(self, limit=60_000):
        try:
            with open(self._log_path, encoding="utf-8", errors="replace") as file:
                return file.read()[-limit:]
        except OSError:
            return ""

    def last_line(self):
        return ([line for line in self.log().splitlines() if line.strip()] or ["it said nothing"])[-1][:300]


class Sglang(Server):
    kind, package = "sglang", "sglang"

    def command(self):
        words = [self.python, "-m", "sglang.launch_server", "--model-path", self.model, "--host", "127.0.0.1", "--port",
                 str(self.port)]
        if self.dummy:
            words += ["--load-format", "dummy", "--checkpoint-engine-wait-weights-before-ready"]
        return words + self.more

    def variables(self):
        return {"SGLANG_WAIT_WEIGHTS_READY_TIMEOUT": str(int(self.start_seconds))} if self.dummy else {}

    def generation(self, prompt):
        return "/generate", {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": TOKENS}}, \
            lambda answer: answer["text"]


class Vllm(Server):
    kind, package = "vllm", "vllm"

    def command(self):
        words = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model, "--served-model-name",
                 SERVED_NAME, "--host", "127.0.0.1", "--port", str(self.port)]
        if self.dummy:
            words += ["--load-format", "dummy", "--worker-extension-cls",
                      "checkpoint_engine.worker.VllmColocateWorkerExtension"]
        return words + self.more

    def variables(self):
        return {"VLLM_SERVER_DEV_MODE": "1"} if self.dummy else {}

    def generation(self, prompt):
        return "/v1/completions", {"model": SERVED_NAME, "prompt": prompt, "temperature": 0, "max_tokens": TOKENS}, \
            lambda answer: answer["choices"][0]["text"]


KINDS = {each.kind: each for each in (Sglang, Vllm)}


def rehearsed(kind, support, devices, rank_program, directories):
    """The class of a stand-in server of this kind, whose output tells which of `directories` its ranks hold."""

    class Rehearsed(KINDS[kind]):
        def command(self):
            return [sys.executable, "-B", os.path.join(support, f"standin_{kind}.py"), "--devices", ",".join(devices),
                    "--kind", "reference", "--program", rank_program, "--port", str(self.port), *self.more]

        def variables(self):
            return {}

        def output(self):
            held = self.model if not self.dummy else next((each for each in directories if self._all_hold(each)), "nothing")
            return [f"{os.path.basename(held)} after {prompt!r}" for prompt in PROMPTS]

        def _all_hold(self, directory):
            status, answer = self.request("POST", "/standin/compare", {"checkpoint": directory}, 120)
            return status == 200 and all(each.get("equal") for each in json.loads(answer).values())

        def hold(self, seconds, gate):
            """The next update stays in its second bucket for so long, or until the file `gate` is there."""
            self.request("POST", "/standin/fault", {"device": devices[0], "kind": "stall", "bucket": 1, "seconds": seconds,
                                                    "gate": gate})

    return Rehearsed
