#!/usr/bin/env python3
"""A stand-in for an SGLang server: its weight-update API in front of rank processes that tests can make fail.

  standin_sglang.py --devices HOST-0,HOST-1 --kind torch --python VENV/bin/python
  standin_sglang.py --devices HOST-0 --kind reference --program build/dev/tests/reference_rank --unix /tmp/e.sock
  standin_sglang.py --devices HOST-0,HOST-1 --rank "CMD" [--rank "CMD"]      one command for all, or one for each

`--device UUID` is appended to each rank's command. Prints "ready PORT" or "ready PATH" once it listens.

As in SGLang: each rank looks its endpoint up by its device's uuid; one update at a time, later ones wait; the answer
comes when all ranks have ended (they meet at a barrier) and is that of the FIRST rank alone. A rank that is dead makes
the answer 400, where SGLang would have ended as a whole.

For tests, never guarded by the key:
  GET  /standin/state                       ranks, and each call of the update route with its end
  POST /standin/fault     {"device","kind","bucket","seconds"}     handed to the rank, for its next update
  POST /standin/compare   {"checkpoint"}                           each rank's own comparison
  POST /standin/kill      {"device"}                               SIGKILL to that rank
  POST /standin/reset                                              idle ranks forget what they loaded; others restart
  POST /standin/misbehave {"answer": one of ANSWERS, "update": bool, "seconds": S}    for the next call
"""

import argparse
import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = os.path.dirname(os.path.abspath(__file__))
ANSWERS = (
    "normal",
    "never",             # holds the call open
    "early_success",     # 200 at once, while the ranks' sessions go on
    "success",           # 200 whatever happened; with "update": false nothing happened
    "failure",           # 400 whatever happened
    "500",               # 500 and a text that is no JSON
    "garbage",           # bytes that are no HTTP
    "garbage_json",      # 200 and a body that is no JSON
    "no_success_field",  # 200 and JSON of another shape
    "close",             # ends the connection without an answer
)
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Rank:
    """One rank process. Commands are serialised: a rank does one thing at a time."""

    def __init__(self, device, command):
        self.device, self._command = device, command + ["--device", device]
        self._lock = threading.Lock()
        self.busy_with = ""
        self.start()

    def start(self):
        # From the main thread only: PR_SET_PDEATHSIG fires when the *thread* that forked ends.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            preexec_fn=die_with_parent)

    @property
    def pid(self):
        return self._process.pid

    def alive(self):
        return self._process.poll() is None

    def ask(self, request):
        """Sends one command and waits for its answer, however long that takes."""
        with self._lock:
            process, self.busy_with = self._process, request["cmd"]
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if line:
                    return json.loads(line)
                return {"ok": False, "error": f"rank {self.device} (pid {process.pid}) ended: {process.wait(5)}"}
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                return {"ok": False, "error": f"rank {self.device} (pid {process.pid}): {error}"}
            finally:
                self.busy_with = ""

    def kill(self):
        try:
            self._process.kill()
        except OSError:
            pass
        self._process.wait(10)

    def end(self, patience_seconds):
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        # The lock is held by whoever waits for an answer: the pipe's end has just released it.
        with self._lock:
            self._process.stdout.close()

    def about(self):
        return {"device": self.device, "pid": self.pid, "alive": self.alive(), "busy_with": self.busy_with}


class BadRequest(Exception):
    pass


class Server:
    """What the HTTP handlers share: ranks, the writer lock, the calls so far, the misbehaviour that comes next."""

    def __init__(self, ranks, sequential, api_key):
        self.ranks, self._sequential, self.api_key = ranks, sequential, api_key
        self._writer = threading.Lock()
        self._state = threading.Lock()
        self._misbehaviour = {"answer": "normal"}
        self._calls = []
        self._weight_version = "default"
        self.closing = threading.Event()
        self.restarts = []  # (rank, Event), worked off by the main thread
        self.wake_main = lambda: None

    # -- the update route

    def update(self, body):
        """Returns (answer kind, status, JSON object)."""
        handles, weight_version = parse_update(body)
        with self._state:
            misbehaviour, self._misbehaviour = self._misbehaviour, {"answer": "normal"}
            call = {"started": time.monotonic(), "ended": None, "handles": handles, "weight_version": weight_version}
            self._calls.append(call)
        kind = misbehaviour["answer"]
        if kind == "early_success":
            threading.Thread(target=self._update_ranks, args=(handles, weight_version, call), daemon=True).start()
            return kind, 200, {"success": True, "message": "IPC weight update completed successfully"}
        if misbehaviour.get("update", True):
            status, answer = self._update_ranks(handles, weight_version, call)
        else:
            status, answer = 200, {"success": True, "message": "nothing was done"}
            call.update(ended=time.monotonic(), status=status, message=answer["message"])
        self.closing.wait(misbehaviour.get("seconds", 0))
        if kind == "success":
            status, answer = 200, {"success": True, "message": "IPC weight update completed successfully"}
        if kind == "failure":
            status, answer = 400, {"success": False, "message": "the stand-in was told to say no"}
        return kind, status, answer

    def _update_ranks(self, handles, weight_version, call):
        try:
            with self._writer:
                status, message = self._run_ranks(handles, call)
                if status == 200 and weight_version is not None:
                    self._weight_version = weight_version
                    message += f" Weight version updated to {weight_version}."
        except Exception as error:
            status, message = 500, f"the stand-in itself failed: {error!r}"
        call.update(ended=time.monotonic(), status=status, message=message)
        return status, {"success": status == 200, "message": message}

    def _run_ranks(self, handles, call):
        for rank in self.ranks:
            if rank.device not in handles:
                return 400, f"Device UUID {rank.device} not found in zmq_handles: {list(handles)}"
        answers = {}

        def run(rank):
            answers[rank.device] = rank.ask({"cmd": "update", "endpoint": handles[rank.device]})

        if self._sequential:
            for rank in self.ranks:
                run(rank)
        else:
            threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in self.ranks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        call["ranks"] = answers
        first = answers[self.ranks[0].device]
        dead = [rank.device for rank in self.ranks if not rank.alive()]
        if dead:
            return 400, f"scheduler of {', '.join(dead)} died"
        if not first.get("ok"):
            return 400, "IPC weight update failed: " + str(first.get("error", "")).strip().rsplit("\n", 1)[-1]
        return 200, "IPC weight update completed successfully"

    # -- the routes of tests

    def state(self):
        with self._state:
            calls = [dict(call) for call in self._calls]
        return {"ranks": [rank.about() for rank in self.ranks], "calls": calls, "now": time.monotonic(),
                "weight_version": self._weight_version, "pid": os.getpid()}

    def model_info(self):
        return {"model_path": "stand-in", "is_generation": True, "weight_version": self._weight_version}

    def fault(self, body):
        return self._rank(body).ask({"cmd": "fault", "kind": body.get("kind", "none"),
                                     "bucket": body.get("bucket", 0), "seconds": body.get("seconds", 0)})

    def compare(self, body):
        if not isinstance(body.get("checkpoint"), str):
            raise BadRequest("checkpoint is missing")
        results, threads = {}, []
        for rank in self.ranks:
            def run(rank=rank):
                results[rank.device] = rank.ask({"cmd": "compare", "checkpoint": body["checkpoint"]})
            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return results

    def rank_states(self, _body):
        return {rank.device: rank.ask({"cmd": "state"}) for rank in self.ranks}

    def kill(self, body):
        self._rank(body).kill()
        return {"ok": True}

    def reset(self, _body):
        with self._state:
            self._misbehaviour = {"answer": "normal"}
        restarted = []
        for rank in self.ranks:
            if rank.alive() and not rank.busy_with:
                rank.ask({"cmd": "fault", "kind": "none"})
                if rank.ask({"cmd": "forget"}).get("ok"):
                    continue
            rank.kill()
            restarted.append((rank, threading.Event()))
        self.restarts += restarted
        self.wake_main()
        for rank, done in restarted:
            done.wait(30)
            rank.ask({"cmd": "state"})  # answered once it has imported all it needs
        return {"ok": True}

    def misbehave(self, body):
        if body.get("answer") not in ANSWERS:
            raise BadRequest(f"answer is one of {', '.join(ANSWERS)}")
        with self._state:
            self._misbehaviour = body
        return {"ok": True}

    def _rank(self, body):
        for rank in self.ranks:
            if rank.device == body.get("device"):
                return rank
        raise BadRequest(f"no rank on device {body.get('device')!r}")


def parse_update(body):
    handles = body.get("zmq_handles")
    if not isinstance(handles, dict) or not all(isinstance(value, str) for value in handles.values()):
        raise BadRequest("zmq_handles: Input should be a valid dictionary of strings")
    for field in ("flush_cache", "torch_empty_cache"):
        if not isinstance(body.get(field, False), bool):
            raise BadRequest(f"{field}: Input should be a valid boolean")
    version = body.get("weight_version")
    if version is not None and not isinstance(version, str):
        raise BadRequest("weight_version: Input should be a valid string")
    return handles, version


def make_handler(server):
    posts = {"/standin/fault": server.fault, "/standin/compare": server.compare, "/standin/kill": server.kill,
             "/standin/reset": server.reset, "/standin/misbehave": server.misbehave,
             "/standin/rank_states": server.rank_states}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 3600

        def do_GET(self):
            path = self.path.split("?")[0]
            if path == "/standin/state":
                return self._answer(200, server.state())
            if path in ("/health", "/health_generate"):
                return self._answer(200, {})
            if not self._authorised():
                return None
            if path == "/ping":
                return self._answer(200, {})
            if path in ("/model_info", "/get_model_info"):
                return self._answer(200, server.model_info())
            return self._answer(404, {"detail": "Not Found"})

        def do_POST(self):
            try:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
                if not isinstance(body, dict):
                    raise ValueError("the body is no JSON object")
                if self.path in posts:
                    return self._answer(200, posts[self.path](body))
                if not self._authorised():
                    return None
                if self.path != "/update_weights_from_ipc":
                    return self._answer(404, {"detail": "Not Found"})
                return self._misbehave(*server.update(body))
            except (BadRequest, ValueError) as error:
                return self._answer(400, {"object": "error", "message": str(error), "code": 400})

        def _misbehave(self, kind, status, answer):
            if kind == "never":
                server.closing.wait()
            if kind in ("never", "close"):
                self.close_connection = True
            elif kind == "garbage":
                self.close_connection = True
                self.wfile.write(b"\x00\xff\x01 this is no HTTP \r\n\r\n")
            elif kind == "500":
                self._send(500, "text/plain", b"Internal Server Error")
            elif kind == "garbage_json":
                self._send(200, "application/json", b'{"success": tru')
            elif kind == "no_success_field":
                self._answer(200, {"result": [None]})
            else:
                self._answer(status, answer)

        def _authorised(self):
            keys = (self.headers.get("Authorization", "").removeprefix("Bearer "), self.headers.get("x-api-key"))
            if server.api_key is None or server.api_key in keys:
                return True
            self._answer(401, {"error": "Unauthorized"})
            return False

        def _answer(self, status, value):
            self._send(status, "application/json", json.dumps(value).encode())

        def _send(self, status, kind, content):
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError as error:  # the client has gone: nobody is left to tell
                self.log_message("client left before its answer: %s", error)
                self.close_connection = True

        def log_message(self, format, *arguments):
            print("stand-in:", format % arguments, file=sys.stderr, flush=True)

    return Handler


class TcpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class UnixServer(TcpServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        connection, _ = self.socket.accept()
        return connection, ("unix", 0)


def rank_commands(arguments, devices):
    if arguments.rank:
        commands = [shlex.split(text) for text in arguments.rank]
    elif arguments.kind == "torch":
        commands = [[arguments.python, os.path.join(HERE, "torch_rank.py")]]
    elif arguments.program:
        commands = [[arguments.program]]
    else:
        sys.exit("standin_sglang.py: --kind reference needs --program, the path of reference_rank")
    if len(commands) == 1:
        commands *= len(devices)
    if len(commands) != len(devices):
        sys.exit(f"standin_sglang.py: {len(commands)} --rank for {len(devices)} devices")
    return commands


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", required=True, help="uuids, separated by commas")
    parser.add_argument("--kind", choices=("torch", "reference"), default="reference")
    parser.add_argument("--python", default=sys.executable, help="interpreter with torch, for --kind torch")
    parser.add_argument("--program", help="reference_rank, for --kind reference")
    parser.add_argument("--rank", action="append", help="command of a rank, in place of --kind")
    parser.add_argument("--unix", help="listen on this Unix socket instead of a free port of 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; 0: a free one")
    parser.add_argument("--sequential", action="store_true", help="a rank starts its session after the one before it")
    parser.add_argument("--api-key")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    devices = arguments.devices.split(",")
    stop = []
    wake_reader, wake_writer = os.pipe()

    def on_signal(number, _frame):
        stop.append(number)
        os.write(wake_writer, b"s")

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    ranks = [Rank(device, command) for device, command in zip(devices, rank_commands(arguments, devices))]
    server = Server(ranks, arguments.sequential, arguments.api_key)
    server.wake_main = lambda: os.write(wake_writer, b"w")
    try:
        for rank in ranks:
            state = rank.ask({"cmd": "state"})
            if "tensors" not in state:
                sys.exit(f"standin_sglang.py: a rank did not start: {state}")
        handler = make_handler(server)
        http = UnixServer(arguments.unix, handler) if arguments.unix else TcpServer(("127.0.0.1", arguments.port), handler)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        print("ready", arguments.unix or http.server_address[1], flush=True)
        while not stop:
            os.read(wake_reader, 1)
            while server.restarts:
                rank, done = server.restarts.pop(0)
                rank.start()
                done.set()
    finally:
        server.closing.set()
        for rank in ranks:
            rank.end(patience_seconds=1)
        if arguments.unix and os.path.exists(arguments.unix):
            os.unlink(arguments.unix)


if __name__ == "__main__":
    main()
