"""What all stand-in servers share: rank processes behind an HTTP server, its life, and the misbehaviour that tests ask for.

A kind of server (standin_sglang.py, standin_vllm.py, standin_lmdeploy.py) is a subclass of Server with a table of routes.
What each assumes about the real one is listed in docs/standins.md.

For tests, never guarded by a key, in every kind:
  GET  /standin/state                       ranks, and each call of the update route with its end
  POST /standin/fault     {"device","kind","bucket","seconds","session","gate"}     handed to the rank, for its next update
  POST /standin/compare   {"checkpoint"}                           each rank's own comparison
  POST /standin/kill      {"device"}                               SIGKILL to that rank
  POST /standin/reset                                              idle ranks forget what they loaded; others restart
  POST /standin/misbehave {"answer": one of ANSWERS, "update": bool, "seconds": S, "device"}    for the next update
  POST /standin/restart   {"seconds": S, "arguments": [..]}        ends, and starts again as another process at the same
                                                                   address after S seconds, with new ranks
  POST /standin/started                                            ends what --starting began
  POST /standin/requests  {"running": N}                           as if N requests were being answered
  POST /standin/versions  {"versions": {NAME: DIR}}                from now on /standin/state says of each pause what the
                                                                   ranks held when requests were let go on ("pauses")
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
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = os.path.dirname(os.path.abspath(__file__))
ANSWERS = (
    "normal",
    "never",             # holds the call open
    "early_success",     # 200 at once, while the ranks' sessions go on
    "success",           # 200 whatever happened; with "update": false nothing happened
    "failure",           # the kind's own no, whatever happened
    "500",               # 500 and a text that is no JSON, whatever happened
    "garbage",           # bytes that are no HTTP
    "garbage_json",      # 200 and a body that is no JSON
    "no_success_field",  # 200 and JSON of another shape
    "close",             # ends the connection without an answer
    "wrong_uuid",        # the rank on "device" (default: the first) looks up a uuid that nobody has
)
MOST_PAUSES = 50  # that are told
NOTHING, A_MIXTURE, IN_AN_UPDATE, GONE = "nothing", "a mixture", "in an update", "gone"
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


class Request:
    def __init__(self, method, target, headers, content):
        self.method, self.headers, self.content = method, headers, content
        parsed = urllib.parse.urlsplit(target)
        self.path, self.query = parsed.path, urllib.parse.parse_qs(parsed.query)

    def body(self):
        """The JSON object that was sent; nothing is an empty one."""
        body = json.loads(self.content or b"{}")
        if not isinstance(body, dict):
            raise BadRequest("the body is no JSON object")
        return body

    def bearer(self):
        word, _, key = self.headers.get("Authorization", "").partition(" ")
        return key if word.lower() == "bearer" else None


class Closed(Exception):
    """The connection ends without an answer."""


class Server:
    """What the HTTP handlers share: ranks, the writer lock, the calls so far, the misbehaviour that comes next.

    A route is a function of the Request that returns (status, body): a body that is a dict or a list goes out as JSON, a
    text as text, None as nothing."""

    def __init__(self, ranks, arguments):
        self.ranks, self.arguments = ranks, arguments
        self._writer = threading.Lock()
        self._state = threading.Lock()
        self._misbehaviour = {"answer": "normal"}
        self._calls = []
        self.weight_version = self.FIRST_LABEL
        self.released = set()  # kinds of memory that are given back: "weights", "kv_cache"
        self.paused = None     # the mode, while requests are held back
        self._pauses, self._versions = [], {}
        self.running_requests = 0
        self.updated = False
        self.ready_at = time.monotonic() + arguments.starting
        self.closing = threading.Event()
        self.restarts = []  # (rank, Event), worked off by the main thread
        self.restart_as = None
        self.wake_main = lambda: None

    # -- of each kind

    FIRST_LABEL = "default"

    def routes(self):
        raise NotImplementedError

    def refusal(self, request):
        """What a request without the right key is answered, or None."""
        raise NotImplementedError

    def success(self, handles):
        raise NotImplementedError

    def failure(self, text):
        raise NotImplementedError

    def invalid(self, text):
        return 400, {"detail": text}

    def wrong_uuid(self, device, handles):
        return f"Device UUID GPU-ffffffff of {device} not found in zmq_handles: {list(handles)}"

    # -- states

    def starting(self):
        return time.monotonic() < self.ready_at

    def started(self, _body):
        self.ready_at = time.monotonic()
        return {"ok": True}

    def idle_requests(self, body):
        self.running_requests = int(body.get("running", 0))
        return {"ok": True}

    def end_ranks(self, why):
        """As when the process of a scheduler ends: the server has nobody left to ask."""
        print("stand-in:", why, file=sys.stderr, flush=True)
        for rank in self.ranks:
            rank.kill()

    # -- pauses

    def hold_back(self, mode):
        """Requests wait from now on."""
        with self._state:
            if not self._pauses or self._pauses[-1]["continued"]:
                self._pauses.append({"paused": time.monotonic(), "modes": [], "continued": None, "held": {}})
            self._pauses[-1]["modes"].append(mode)
            del self._pauses[:-MOST_PAUSES]
            self.paused = mode

    def let_go_on(self):
        """Requests are answered from now on: by whatever the ranks hold."""
        pause = self._pauses[-1] if self._pauses and not self._pauses[-1]["continued"] else None
        if pause and self._versions:
            pause["held"] = self.held_by_ranks()
        with self._state:
            if pause:
                pause["continued"] = time.monotonic()
            self.paused = None

    def held_by_ranks(self):
        """Device -> the version that its rank holds, or NOTHING, A_MIXTURE; IN_AN_UPDATE and GONE, who cannot be asked."""
        held, threads = {}, []
        for rank in self.ranks:
            def run(rank=rank):
                held[rank.device] = self._held_by(rank)
            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return held

    def _held_by(self, rank):
        if not rank.alive():
            return GONE
        if rank.busy_with in ("update", "transfer"):
            return IN_AN_UPDATE
        answer = {}
        for version, directory in self._versions.items():
            answer = rank.ask({"cmd": "compare", "checkpoint": directory})
            if answer.get("equal"):
                return version
        if "equal" not in answer:
            return GONE
        return A_MIXTURE if rank.ask({"cmd": "state"}).get("tensors") else NOTHING

    # -- the update route

    def next_misbehaviour(self):
        with self._state:
            misbehaviour, self._misbehaviour = self._misbehaviour, {"answer": "normal"}
        return misbehaviour

    def note_call(self, handles, weight_version=None):
        call = {"started": time.monotonic(), "ended": None, "handles": handles, "weight_version": weight_version}
        with self._state:
            self._calls.append(call)
        return call

    def update(self, handles, weight_version=None, more=None):
        """Returns (misbehaviour, status, answer). `more` runs when all ranks were well, and returns a complaint or None."""
        misbehaviour = self.next_misbehaviour()
        call = self.note_call(handles, weight_version)
        kind = misbehaviour["answer"]
        if kind == "early_success":
            threading.Thread(target=self._update_ranks, args=(handles, weight_version, call, {}, more),
                             daemon=True).start()
            return kind, *self.success(handles)
        if misbehaviour.get("update", True):
            status, answer = self._update_ranks(handles, weight_version, call, misbehaviour, more)
        else:
            status, answer = self.success(handles)
            call.update(ended=time.monotonic(), status=status, message="nothing was done")
        self.closing.wait(misbehaviour.get("seconds", 0))
        if kind == "success":
            status, answer = self.success(handles)
        if kind == "failure":
            status, answer = self.failure("the stand-in was told to say no")
        return kind, status, answer

    def _update_ranks(self, handles, weight_version, call, misbehaviour, more):
        try:
            with self._writer:
                complaint = self._run_ranks(handles, call, misbehaviour)
                if not complaint:
                    self.updated = True
                    complaint = more() if more else None
                if not complaint and weight_version is not None:
                    self.weight_version = weight_version
        except Exception as error:
            complaint = f"the stand-in itself failed: {error!r}"
        status, answer = self.failure(complaint) if complaint else self.success(handles)
        call.update(ended=time.monotonic(), status=status, message=complaint or "")
        return status, answer

    def _run_ranks(self, handles, call, misbehaviour):
        """The complaint of the FIRST rank alone, as the schedulers of the engines answer, or None."""
        lost = misbehaviour.get("device") or self.ranks[0].device if misbehaviour.get("answer") == "wrong_uuid" else None
        answers = {}

        def run(rank):
            if rank.device == lost:
                answers[rank.device] = {"ok": False, "error": self.wrong_uuid(rank.device, handles)}
                return
            if rank.device not in handles:
                answers[rank.device] = {"ok": False, "error": self.missing_uuid(rank.device, handles)}
                return
            # The target's session first, then one for each draft model, on the same endpoint.
            for _ in range(1 + self.arguments.draft_models):
                answers[rank.device] = rank.ask({"cmd": "update", "endpoint": handles[rank.device]})
                if not answers[rank.device].get("ok"):
                    return

        if self.arguments.sequential:
            for rank in self.ranks:
                run(rank)
        else:
            threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in self.ranks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        call["ranks"] = answers
        dead = [rank.device for rank in self.ranks if not rank.alive()]
        if dead:
            return f"scheduler of {', '.join(dead)} died"
        return self.complaint_of(answers)

    def complaint_of(self, answers):
        """An executor raises what any of its workers raised."""
        for rank in self.ranks:
            if not answers[rank.device].get("ok"):
                return self.last_line(answers[rank.device])
        return None

    @staticmethod
    def last_line(answer):
        return str(answer.get("error", "")).strip().rsplit("\n", 1)[-1] or "no reason given"

    def missing_uuid(self, device, handles):
        return f"Device UUID {device} not found in zmq_handles: {list(handles)}"

    def checksums(self):
        return [rank.ask({"cmd": "checksums"}).get("checksums", {}) for rank in self.ranks]

    # -- the routes of tests

    def state(self):
        with self._state:
            calls, pauses = [dict(call) for call in self._calls], [dict(pause) for pause in self._pauses]
        return {"ranks": [rank.about() for rank in self.ranks], "calls": calls, "pauses": pauses, "now": time.monotonic(),
                "weight_version": self.weight_version, "pid": os.getpid(), "paused": self.paused,
                "released": sorted(self.released), "starting": self.starting()}

    def fault(self, body):
        return self._rank(body).ask({"cmd": "fault", "kind": body.get("kind", "none"),
                                     "bucket": body.get("bucket", 0), "seconds": body.get("seconds", 0),
                                     "session": body.get("session", 0), "gate": body.get("gate", "")})

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

    def versions(self, body):
        self._versions = dict(body.get("versions", {}))
        return {"ok": True}

    def restart(self, body):
        self.restart_as = {"seconds": float(body.get("seconds", 0)), "arguments": list(body.get("arguments", []))}
        threading.Timer(0.05, self.wake_main).start()  # once this is answered
        return {"ok": True}

    def _rank(self, body):
        for rank in self.ranks:
            if rank.device == body.get("device"):
                return rank
        raise BadRequest(f"no rank on device {body.get('device')!r}")


def make_handler(server):
    posts = {"/standin/fault": server.fault, "/standin/compare": server.compare, "/standin/kill": server.kill,
             "/standin/reset": server.reset, "/standin/misbehave": server.misbehave,
             "/standin/rank_states": server.rank_states, "/standin/restart": server.restart,
             "/standin/requests": server.idle_requests, "/standin/versions": server.versions,
             "/standin/started": server.started}
    routes = server.routes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 3600

        def do_GET(self):
            self._do("GET")

        def do_POST(self):
            self._do("POST")

        def _do(self, method):
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(method, self.path, self.headers, content)
            try:
                if request.path == "/standin/state":
                    return self._answer(200, server.state())
                if method == "POST" and request.path in posts:
                    return self._answer(200, posts[request.path](request.body()))
                refused = server.refusal(request)
                if refused:
                    return self._answer(*refused)
                route = routes.get((method, request.path))
                if route is None:
                    known = any(path == request.path for _, path in routes)
                    return self._answer(*((405, {"detail": "Method Not Allowed"}) if known
                                          else (404, {"detail": "Not Found"})))
                answer = route(request)
                return self._misbehave(*answer) if len(answer) == 3 else self._answer(*answer)
            except (BadRequest, ValueError) as error:
                return self._answer(*server.invalid(str(error)))
            except Closed:
                self.close_connection = True
                return None

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

        def _answer(self, status, value):
            if value is None:
                return self._send(status, "text/plain", b"")
            if isinstance(value, str):
                return self._send(status, "text/plain", value.encode())
            return self._send(status, "application/json", json.dumps(value).encode())

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
        sys.exit("stand-in: --kind reference needs --program, the path of reference_rank")
    if len(commands) == 1:
        commands *= len(devices)
    if len(commands) != len(devices):
        sys.exit(f"stand-in: {len(commands)} --rank for {len(devices)} devices")
    return commands


def common_parser(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", required=True, help="uuids, separated by commas")
    parser.add_argument("--kind", choices=("torch", "reference"), default="reference")
    parser.add_argument("--python", default=sys.executable, help="interpreter with torch, for --kind torch")
    parser.add_argument("--program", help="reference_rank, for --kind reference")
    parser.add_argument("--rank", action="append", help="command of a rank, in place of --kind")
    parser.add_argument("--unix", help="listen on this Unix socket instead of a port of 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--sequential", action="store_true", help="a rank starts its session after the one before it")
    parser.add_argument("--starting", type=float, default=0, metavar="SECONDS", help="503 for that long")
    parser.add_argument("--draft-models", type=int, default=0, help="more sessions of each rank on its endpoint")
    parser.add_argument("--api-key")
    parser.add_argument("--version", help="that it tells, where its kind tells one")
    return parser


def again(arguments, address, how):
    """This process stays, as the parent of the one that takes its place, so that whoever started it has one to end."""
    command = [sys.executable, *sys.argv, *how["arguments"]]
    if not arguments.unix:
        command += ["--port", str(address)]
    time.sleep(how["seconds"])
    child = subprocess.Popen(command, preexec_fn=die_with_parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    sys.exit(child.wait())


def run(make_server, arguments):
    """Until SIGTERM or SIGINT. Prints "ready PORT" or "ready PATH" once it listens."""
    devices = arguments.devices.split(",")
    stop = []
    wake_reader, wake_writer = os.pipe()

    def on_signal(number, _frame):
        stop.append(number)
        os.write(wake_writer, b"s")

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    ranks = [Rank(device, command) for device, command in zip(devices, rank_commands(arguments, devices))]
    server = make_server(ranks, arguments)
    server.wake_main = lambda: os.write(wake_writer, b"w")
    http = None
    try:
        for rank in ranks:
            state = rank.ask({"cmd": "state"})
            if "tensors" not in state:
                sys.exit(f"stand-in: a rank did not start: {state}")
        handler = make_handler(server)
        http = UnixServer(arguments.unix, handler) if arguments.unix else TcpServer(("127.0.0.1", arguments.port), handler)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        print("ready", arguments.unix or http.server_address[1], flush=True)
        while not stop and not server.restart_as:
            os.read(wake_reader, 1)
            while server.restarts:
                rank, done = server.restarts.pop(0)
                rank.start()
                done.set()
    finally:
        server.closing.set()
        if server.restart_as and http:
            http.shutdown()
            http.server_close()
        for rank in ranks:
            if server.restart_as:
                rank.kill()
            rank.end(patience_seconds=1)
        if arguments.unix and os.path.exists(arguments.unix):
            os.unlink(arguments.unix)
    if server.restart_as and not stop:
        again(arguments, http.server_address[1] if not arguments.unix else None, server.restart_as)
