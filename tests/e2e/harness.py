"""What the end-to-end tests share: the real daemon and its command line, stand-in engines, checkpoints.

Environment: CKPTD_BIN_DIR (ckptd, ckptctl), CKPTD_REFERENCE_RANK (default: beside the other test programs),
CKPTD_RANKS (reference or torch: what plays the ranks), CKPTD_FAKE_CUDA (the libcuda of tests/support/fake_cuda), CKPTD_TEST_PYTHON (interpreter with torch, safetensors and
checkpoint-engine; unset: the virtual environment of scripts/test, empty: none), CKPTD_TEST_PATIENCE (factor on every
deadline, for slow machines and sanitizers).

Every wait has a deadline and says what it waited for. Every process is ended by its id, and dies with this one.
"""

import concurrent.futures
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SUPPORT = os.path.join(ROOT, "tests", "support")
sys.path.insert(0, SUPPORT)
sys.dont_write_bytecode = True

import checkpoints  # noqa: E402

SKIP_RETURN_CODE = 77
PATIENCE = float(os.environ.get("CKPTD_TEST_PATIENCE") or 1)
RANKS = os.environ.get("CKPTD_RANKS") or "reference"
BIN_DIR = os.environ.get("CKPTD_BIN_DIR") or os.path.join(ROOT, "build", "dev", "bin")
CKPTD = os.path.join(BIN_DIR, "ckptd")
CKPTCTL = os.path.join(BIN_DIR, "ckptctl")
REFERENCE_RANK = os.environ.get("CKPTD_REFERENCE_RANK") or os.path.join(
    os.path.dirname(BIN_DIR), "tests", "reference_rank")

# Deadlines of a daemon that are not to pass while a test holds a rank in the middle of an update.
HELD = {name: "10m" for name in ("connect", "reload", "release", "finish", "engine")}

# Exit codes of ckptctl, by kind of error; proto/control/outcome.cpp is the table.
EXIT = {"success": 0, "usage": 2, "invalid_argument": 3, "denied": 4, "not_found": 5, "conflict": 6, "busy": 7,
        "corrupt": 8, "unsupported": 9, "no_space": 10, "peer_failed": 11, "partial": 16, "timed_out": 12, "cancelled": 13,
        "unavailable": 14, "io": 15, "internal": 70}

_LIBC = ctypes.CDLL(None, use_errno=True)


def _make_starter():
    """PR_SET_PDEATHSIG fires when the *thread* ends that forked. This one stays until the program's end, whoever wants a
    process; a fork does not take it along."""
    global _STARTER
    _STARTER = concurrent.futures.ThreadPoolExecutor(1)


_make_starter()
os.register_at_fork(after_in_child=_make_starter)


def die_with_parent():
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def test_python():
    """An interpreter that has torch, or None."""
    named = os.environ.get("CKPTD_TEST_PYTHON")
    if named is not None:
        return named or None
    default = os.path.join(ROOT, ".venv", "bin", "python")
    ready = os.path.join(ROOT, ".venv", "torch-is-ready")  # written by scripts/test once everything is installed
    return default if os.path.exists(default) and os.path.exists(ready) else None


def wait_until(what, predicate, seconds=20.0):
    """Calls `predicate` until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds * PATIENCE:.0f} s in vain for: {what}")
        time.sleep(0.02)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def http_request(connection, method, path, body=None, headers=None):
    """(status, JSON value or text)"""
    try:
        content = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        given = {"Content-Type": "application/json"} if content is not None else {}
        connection.request(method, path, content, {**given, **(headers or {})})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    try:
        return response.status, json.loads(text) if text else {}
    except ValueError:
        return response.status, text.decode("utf-8", "replace")


class Process:
    """A child whose output goes to a file; ended by id, shown when its test fails."""

    def __init__(self, name, command, log_path, environment=None, stdout_pipe=False):
        self.name, self.log_path = name, log_path
        with open(log_path, "ab") as log:
            self.popen = _STARTER.submit(
                subprocess.Popen, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if stdout_pipe else log,
                stderr=log, env=environment, preexec_fn=die_with_parent).result()

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def send(self, number):
        if self.running():
            os.kill(self.pid, number)

    def wait(self, seconds):
        try:
            return self.popen.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} (pid {self.pid}) did not end within {seconds * PATIENCE:.0f} s") from None

    def end(self, seconds=20):
        """SIGTERM, then SIGKILL. Returns the exit status, negative for a signal."""
        self.send(signal.SIGTERM)
        try:
            self.popen.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(10)
        if self.popen.stdout:
            self.popen.stdout.close()
        return self.popen.returncode

    def log(self, limit=20000):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()[-limit:]
        except OSError:
            return ""


class Answer:
    """What ckptctl did."""

    def __init__(self, arguments, code, stdout, stderr):
        self.arguments, self.code, self.stdout, self.stderr = arguments, code, stdout, stderr

    @property
    def json(self):
        try:
            return json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"standard output is not one JSON value: {self}") from None

    @property
    def error(self):
        """The error object, whether the request or the job failed."""
        return self.json.get("error") or {}

    def everything(self):
        return self.stdout + self.stderr

    def __str__(self):
        return f"ckptctl {' '.join(self.arguments)}: exit {self.code}\n{self.stdout}\n{self.stderr}"


class Daemon:
    """One ckptd with directories of its own. `config` is merged over the defaults: {"push": {"bucket": "1MiB"}}."""

    DEFAULTS = {
        "": {"log_level": "debug"},
        "device": {"kind": "host", "host_devices": 2},
        # What is idle and what is untouched would otherwise change behind a test's back.
        "store": {"budget": "512MiB", "lock": "try", "prefault": "off"},
        "push": {"bucket": "256KiB"},
        "probe": {"at_start": False},  # a measurement beside a test would count as one of its leaks
        "timeouts": {"connect": "10s", "reload": "10s", "release": "10s", "finish": "10s", "upload": "10s",
                     "engine": "60s", "custody": "60s", "shutdown": "8s"},
    }

    def __init__(self, config=None, extra_toml="", environment=None):
        self.environment = {**os.environ, **(environment or {})}
        self.directory = tempfile.mkdtemp(prefix="ckptd-", dir="/tmp")
        os.chmod(self.directory, 0o755)  # ranks of other users reach their sockets through it
        self.runtime_dir, self.state_dir = (os.path.join(self.directory, name) for name in ("run", "state"))
        self.socket_path = os.path.join(self.runtime_dir, "control.sock")
        self.config_path = os.path.join(self.directory, "ckptd.toml")
        self._log_path = os.path.join(self.directory, "ckptd.log")
        self.process = None
        self._given = config or {}, extra_toml
        self.write_config(*self._given)

    def write_config(self, config, extra_toml=""):
        merged = {section: dict(values) for section, values in self.DEFAULTS.items()}
        merged[""].update(runtime_dir=self.runtime_dir, state_dir=self.state_dir)
        for section, values in config.items():
            merged.setdefault(section, {}).update(values)
        lines = []
        for section, values in merged.items():
            if section:
                lines.append(f"[{section}]")
            # JSON's strings, numbers, booleans and lists of strings are TOML's too.
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        with open(self.config_path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n" + extra_toml)

    def be_patient(self):
        """Deadlines are those of DEFAULTS from now on: one that a failure was to meet soon is none for what must succeed."""
        config, extra_toml = self._given
        self.write_config({section: values for section, values in config.items() if section != "timeouts"}, extra_toml)
        self.must("reload")

    def launch(self, *flags):
        self.process = Process("ckptd", [CKPTD, "--config", self.config_path, *flags], self._log_path, self.environment)
        return self

    def start(self, *flags):
        self.launch(*flags)
        wait_until("ckptd to answer on its control socket", self._answers, 30)
        return self

    def _answers(self):
        if not self.process.running():
            raise AssertionError(f"ckptd ended with {self.process.popen.returncode}:\n{self.process.log()}")
        try:
            return self.http("GET", "/healthz", timeout=2)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def kill9(self):
        self.process.popen.kill()
        self.process.popen.wait(10)

    def terminate(self, seconds=30):
        self.process.send(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self):
        code = self.process.end() if self.process else 0
        self.final_log = self.process.log() if self.process else ""
        shutil.rmtree(self.directory, ignore_errors=True)
        return code

    def log(self, limit=20000):
        return getattr(self, "final_log", None) or (self.process.log(limit) if self.process else "")

    # -- the control API

    def http(self, method, path, body=None, headers=None, timeout=30):
        return http_request(UnixConnection(self.socket_path, timeout * PATIENCE), method, path, body, headers)

    def ctl_command(self, *arguments, json_output=True):
        return [CKPTCTL, "--socket", self.socket_path, *(["--json"] if json_output else []), *arguments]

    def ctl(self, *arguments, json_output=True, seconds=90):
        command = self.ctl_command(*arguments, json_output=json_output)
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8",
                                  timeout=seconds * PATIENCE, preexec_fn=die_with_parent)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"ckptctl {' '.join(arguments)} did not end within {seconds * PATIENCE:.0f} s; "
                                 f"so far: {late.stdout} {late.stderr}") from None
        return Answer(arguments, done.returncode, done.stdout, done.stderr)

    def must(self, *arguments, **options):
        """As ctl(), and the command must succeed. Returns its JSON."""
        answer = self.ctl(*arguments, **options)
        if answer.code != 0:
            raise AssertionError(str(answer))
        return answer.json if options.get("json_output", True) else answer

    def load(self, version, directory, *flags):
        return self.must("load", version, directory, *flags)

    def detached(self, *arguments):
        """Starts a job and returns its id."""
        return self.must(*arguments, "--detach")["id"]

    def job(self, job_id):
        status, job = self.http("GET", f"/v1/jobs/{job_id}")
        if status != 200:
            raise AssertionError(f"job {job_id}: {status} {job}")
        return job

    def wait_job(self, job_id, seconds=60):
        return wait_until(f"job {job_id} to end", lambda: (lambda job: job["state"] != "running" and job)(
            self.job(job_id)), seconds)

    def engine(self, name):
        status, engine = self.http("GET", f"/v1/engines/{name}")
        if status != 200:
            raise AssertionError(f"engine {name}: {status} {engine}")
        return engine

    def version(self, name, version):
        return self.http("GET", f"/v1/checkpoints/{name.replace('/', '%2F')}/versions/{version}")

    def add_engine(self, name, engine, checkpoint, devices=(), follow=False, target=None, on_failure=None, pause="auto"):
        """Without `follow`, and with hold, the daemon leaves it alone: most tests begin their updates themselves."""
        flags = ["--devices", ",".join(devices)] if devices else []
        flags += [] if follow else ["--no-follow"]
        flags += ["--target", target] if target else []
        flags += ["--on-failure", on_failure or ("repush" if follow else "hold"), "--pause", pause]
        return self.must("engine", "add", name, "--kind", engine.kind, "--endpoint", engine.endpoint,
                         "--checkpoint", checkpoint, *flags)

    # -- the process from outside

    def open_files(self):
        """Targets of its open descriptors."""
        directory, targets = f"/proc/{self.process.pid}/fd", []
        for entry in os.listdir(directory):
            try:
                targets.append(os.readlink(os.path.join(directory, entry)))
            except OSError:
                pass  # closed in between
        return targets

    def phases(self):
        """Of the updates that its journal has: "pushing" once the first bucket may be sent."""
        with open(os.path.join(self.state_dir, "state.json"), encoding="utf-8") as file:
            return [update.get("phase") for update in json.load(file).get("updates", [])]

    def memfds(self):
        return [target for target in self.open_files() if target.startswith("/memfd:")]

    def rank_sockets(self):
        directory = os.path.join(self.runtime_dir, "r")
        return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


class Engine:
    """A stand-in server of a kind, and its ranks."""

    def __init__(self, devices=("HOST-0", "HOST-1"), ranks=None, unix=False, sequential=False, api_key=None,
                 rank_commands=None, environment=None, kind="sglang", arguments=(), port=None):
        self.kind = kind
        self.devices = list(devices)
        self.directory = tempfile.mkdtemp(prefix="engine-", dir="/tmp")
        os.chmod(self.directory, 0o755)
        ranks = ranks or RANKS
        command = [sys.executable, os.path.join(SUPPORT, f"standin_{kind}.py"), "--devices", ",".join(devices)]
        command += arguments
        if rank_commands:
            for rank_command in rank_commands:
                command += ["--rank", rank_command]
        elif ranks == "torch":
            command += ["--kind", "torch", "--python", test_python()]
        else:
            command += ["--kind", "reference", "--program", REFERENCE_RANK]
        if unix:
            command += ["--unix", os.path.join(self.directory, f"{kind}.sock")]
        if sequential:
            command.append("--sequential")
        if api_key:
            command += ["--api-key", api_key]
        if port:
            command += ["--port", str(port)]
        # One thread each: ranks that fill all cores with copies starve the rest of the test.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
        self.process = None
        self._command, self._environment = command, environment
        self._gates = 0
        try:
            self._launch()
        except BaseException:  # an interrupt too: nothing may stay behind
            self.close()
            raise

    def _launch(self):
        self.process = Process("stand-in", self._command, os.path.join(self.directory, "engine.log"), self._environment,
                               True)
        self.address = self._read_address()

    def kill9(self):
        """Its server dies, and its ranks with it."""
        self.process.popen.kill()
        self.process.popen.wait(10)
        self.process.popen.stdout.close()

    def start_again(self):
        """Where it was, with nothing loaded."""
        if not self.address.startswith("/") and "--port" not in self._command:
            self._command += ["--port", self.address]
        self._launch()

    def _read_address(self):
        import select

        ready, _, _ = select.select([self.process.popen.stdout], [], [], 120 * PATIENCE)
        words = self.process.popen.stdout.readline().decode().split() if ready else []
        if len(words) != 2 or words[0] != "ready":
            raise AssertionError(f"the stand-in engine did not start: {words}\n{self.process.log()}")
        return words[1]

    @property
    def endpoint(self):
        return "unix:" + self.address if self.address.startswith("/") else "http://127.0.0.1:" + self.address

    def http(self, method, path, body=None, timeout=60, headers=None):
        seconds = timeout * PATIENCE
        if self.address.startswith("/"):
            connection = UnixConnection(self.address, seconds)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", int(self.address), timeout=seconds)
        return http_request(connection, method, path, body, headers)

    def post(self, path, **body):
        status, answer = self.http("POST", path, body)
        if status != 200:
            raise AssertionError(f"{path}: {status} {answer}")
        return answer

    def state(self):
        return self.http("GET", "/standin/state")[1]

    def calls(self):
        return self.state()["calls"]

    def rank(self, device):
        return next(rank for rank in self.state()["ranks"] if rank["device"] == device)

    def rank_states(self):
        return self.post("/standin/rank_states")

    def fault(self, device, kind, bucket=0, seconds=0, session=0):
        answer = self.post("/standin/fault", device=device, kind=kind, bucket=bucket, seconds=seconds, session=session,
                           gate=self._gate())
        if not answer.get("ok"):
            raise AssertionError(f"this rank knows no fault {kind}: {answer}")
        if os.path.exists(self._gate() + "." + device):
            os.unlink(self._gate() + "." + device)  # it slept, and was ended in another way than by go()

    # A test that needs an update in its middle holds a rank there until it has done there what it is about. Where it needs
    # the update to go on afterwards, no deadline of the daemon may end it meanwhile: harness.HELD has such.

    def hold(self, device, kind="stall", bucket=0, session=0):
        """A fault that sleeps, until go()."""
        self.fault(device, kind, bucket, 1800, session)

    def wait_held(self, *devices):
        """Until the ranks sleep that hold() was said of since the last go()."""
        for device in devices or self.devices:
            wait_until(f"{device} to be held", lambda: os.path.exists(f"{self._gate()}.{device}"))  # noqa: B023

    def go(self):
        """Ends every sleep of a fault that was given until now, also one that has not begun yet."""
        with open(self._gate(), "w", encoding="ascii"):
            pass
        self._gates += 1

    def _gate(self):
        return os.path.join(self.directory, f"go{self._gates}")

    def misbehave(self, answer, **how):
        return self.post("/standin/misbehave", answer=answer, **how)

    def kill_rank(self, device):
        return self.post("/standin/kill", device=device)

    def reset(self):
        return self.post("/standin/reset")

    def idle(self):
        state = self.state()
        return all(not rank["busy_with"] for rank in state["ranks"]) and all(
            call["ended"] is not None for call in state["calls"])

    def wait_idle(self, seconds=20):
        wait_until(f"the ranks of the engine to be free: {self.endpoint}", self.idle, seconds)

    def wait_updating(self, calls=1):
        """Until the engine has been called (`calls` times in its life) and its ranks are in their sessions."""
        def updating():
            state = self.state()
            # One that is over already is for the test to notice, and what became of it for it to tell.
            return len(state["calls"]) >= calls and (state["calls"][-1]["ended"] is not None or any(
                rank["busy_with"] == "update" for rank in state["ranks"]))

        wait_until("the ranks to be in an update", updating)

    def close(self):
        if self.process:
            self.process.end(5)
            self.final_log = self.process.log()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self, limit=20000):
        return getattr(self, "final_log", None) or (self.process.log(limit) if self.process else "")


class Case(unittest.TestCase):
    """Cleans up after itself and shows the logs of its processes when it failed."""

    longMessage = True

    def run(self, result=None):
        self._parts = []
        before = len(result.failures) + len(result.errors) if result else 0
        outcome = super().run(result)
        if result and len(result.failures) + len(result.errors) > before:
            for part in self._parts:
                print(f"---- {self.id()}: {type(part).__name__} ----\n{part.log()}", file=sys.stderr, flush=True)
        return outcome

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="e2e-", dir="/tmp")
        os.chmod(self.directory, 0o755)
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def background(self, function, *arguments, **options):
        """Runs it on a thread; the returned function waits for the result and raises what it raised."""
        outcome = []

        def run():
            try:
                outcome.append((function(*arguments, **options), None))
            except Exception as error:
                outcome.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def result(seconds=90):
            thread.join(seconds * PATIENCE)
            if not outcome:
                raise AssertionError(f"{function} did not end within {seconds * PATIENCE:.0f} s")
            value, error = outcome[0]
            if error:
                raise error
            return value

        return result

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def daemon(self, config=None, extra_toml="", start=True, environment=None):
        daemon = Daemon(config, extra_toml, environment)
        self._parts.append(daemon)
        self.addCleanup(daemon.close)
        return daemon.start() if start else daemon

    def engine(self, **options):
        engine = Engine(**options)
        self._parts.append(engine)
        self.addCleanup(engine.close)
        return engine

    def llama(self, name="llama", megabytes=4, shards=3, seed=1):
        return checkpoints.make_llama(self.path(name), megabytes * 1_000_000, shards, seed)

    def second(self, source, name="second", key=1):
        return checkpoints.make_second(source, self.path(name), key)

    def serving(self, daemon_config=None, checkpoint=None, **engine_options):
        """A daemon, an engine named e, and a resident m@1: what most tests start from."""
        engine = self.engine(**engine_options)
        daemon = self.daemon(daemon_config)
        source = checkpoint or self.llama()
        daemon.add_engine("e", engine, "m", () if len(engine.devices) == 2 else engine.devices)
        daemon.load("m@1", source)
        return daemon, engine, source

    # -- what tests say

    def assert_holds(self, engine, source):
        """Every rank holds exactly this checkpoint."""
        about = checkpoints.describe(source)
        for device, result in engine.post("/standin/compare", checkpoint=source).items():
            self.assertTrue(result.get("equal"), f"{device}: {result}")
            self.assertEqual(result["tensors"], about["tensors"], device)
            self.assertEqual(result["bytes"], about["bytes"], device)

    def assert_differs(self, engine, source):
        for device, result in engine.post("/standin/compare", checkpoint=source).items():
            self.assertIs(result.get("equal"), False, f"{device}: {result}")

    def assert_alive(self, daemon):
        """The daemon is up and keeps what was resident."""
        self.assertTrue(daemon.process.running(), "ckptd ended")
        self.assertEqual(daemon.http("GET", "/healthz")[0], 200)

    def assert_fails(self, answer, kinds, *words):
        """A command failed with one of these kinds of error, and its sentence names all words."""
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        self.assertIn(answer.code, [EXIT[kind] for kind in kinds], str(answer))
        self.assertIn(answer.error.get("kind"), kinds, str(answer))
        said = answer.error.get("sentence", "") + " " + answer.error.get("vendor", "")
        for word in words:
            self.assertIn(str(word), said, str(answer))


class OneEngine(Case):
    """One stand-in with its ranks for all tests of a class, as it was at the start for each: torch takes seconds to import."""

    config = None  # of daemons that start() is not told any of

    @classmethod
    def make_engine(cls):
        return Engine()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shared = cls.make_engine()
        cls.addClassCleanup(cls.shared.close)

    def setUp(self):
        super().setUp()
        self._parts.append(self.shared)
        self.shared.reset()
        self.source = self.llama(megabytes=4)

    def start(self, config=None):
        daemon = self.daemon(config or self.config)
        daemon.add_engine("e", self.shared, "m")
        daemon.load("m@1", self.source)
        return daemon


def torch_or_skip():
    """For modules that need torch: ends the process as skipped where it is missing."""
    if test_python() is None:
        print("SKIPPED: no Python environment with torch (see scripts/test)")
        sys.exit(SKIP_RETURN_CODE)


def main(module="__main__"):
    """Runs the tests of a module. Exit status: 0, 1, or 77 when nothing ran."""
    if RANKS == "torch":
        torch_or_skip()
    program = unittest.main(module=module, exit=False, verbosity=2)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun == 0 or len(result.skipped) == result.testsRun:
        sys.exit(SKIP_RETURN_CODE)
    sys.exit(0)
