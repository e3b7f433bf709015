"""What is soaked: one daemon, several engines of several kinds, some versions of one model."""

import os
import shlex
import shutil
import sys
import tempfile

import harness
import workers
from harness import checkpoints

# Engines differ in family (what server it is and what of it takes the weights), in the number of ranks, each on devices of
# its own, in what the ranks run, in how they are treated (pause, on_failure, keep_cache), and in whether ckptd brings them
# to their target by itself ("follow"). A new family that the harness has a stand-in for is a row of KINDS.
ENGINES = (
    # name, family, ranks, the options of its ranks, of its server and of its registration
    ("one", "sglang", 1, {"follow": True, "pause": "in_place", "keep_cache": True}),
    ("four", "sglang", 4, {"on_failure": "hold"}),
    ("oldest", "sglang", 1, {"rank": "--dialect A", "unix": True, "follow": True, "pause": "abort", "on_failure": "hold"}),
    # An old server does not tell that it is paused.
    ("older", "sglang", 1, {"rank": "--dialect B", "arguments": ("--old",), "follow": True}),
    ("draft", "draft", 2, {}),
    ("vllm", "vllm", 2, {"follow": True, "pause": "keep"}),
    ("old-vllm", "vllm", 1, {"rank": "--dialect C", "unix": True, "pause": "none"}),
    ("transfer", "transfer", 2, {"follow": True, "on_failure": "hold", "pause": "wait"}),
    ("lmdeploy", "lmdeploy", 2, {"arguments": ("--empty-init",), "wake": "all", "follow": True}),
)
# family: (kind, arguments of the stand-in, command of its ranks or None for the reference rank)
KINDS = {
    "sglang": ("sglang", (), None),
    # The second is for a draft model, of which the server tells, and which is compared too.
    "draft": ("sglang", ("--speculative", "EAGLE"), "--sessions 2"),
    "vllm": ("vllm", (), None),
    "lmdeploy": ("lmdeploy", (), None),
    # Of another version, since its ranks sum what they hold in another way: nobody is to compare the two.
    "transfer": ("vllm", ("--weight-transfer", "ipc", "--insecure-serialization", "--no-extension", "--version", "0.27.0"),
                 shlex.join([sys.executable, os.path.join(harness.SUPPORT, "transfer_rank.py")])),
}
# With --torch these run the worker of checkpoint-engine in this version, under torch.
TORCH = {"one": "0.4.2", "old-vllm": "0.3.4"}
MODEL_BYTES, BIG_BYTES = 4_000_000, 48_000_000
VERSIONS = 3
# Seconds, short so that hours hold many of them.
TIMES = {"connect": 4, "reload": 3, "release": 3, "finish": 3, "upload": 6, "engine": 9, "answer_grace": 2, "ping": 4,
         "custody": 10, "shutdown": 6}


def start_engine(family, devices, rank=None, arguments=(), torch=None, **options):
    kind, of_family, command = KINDS[family]
    if torch:
        command, of_family = torch_rank(torch), (*of_family, "--version", f"with checkpoint-engine {torch}")
    elif rank or command:
        command = rank or command
        command = f"{shlex.quote(harness.REFERENCE_RANK)} {command}" if command.startswith("-") else command
    return harness.Engine(devices=devices, kind=kind, rank_commands=[command] if command else None,
                          arguments=(*of_family, *arguments), ranks="reference", **options)


def torch_rank(version):
    package = os.path.join(workers.folder(), version)
    if not os.path.isdir(os.path.join(package, "checkpoint_engine")):
        sys.exit(f"checkpoint-engine {version} is not in {workers.folder()} (see scripts/test)")
    return shlex.join([harness.test_python(), os.path.join(harness.SUPPORT, "torch_rank.py"), "--package", package])


class Member:
    """One engine of the node, as the soak knows it."""

    def __init__(self, name, family, devices, sources, follow=False, wake="none", pause="auto", on_failure="repush",
                 keep_cache=False, **options):
        self.name, self.family, self.devices, self.follow, self.pause = name, family, devices, follow, pause
        kind = KINDS[family][0]
        self.registration = ["--kind", kind, "--wake", wake, "--pause", pause, "--on-failure", on_failure,
                             *(["--keep-cache"] if keep_cache else []), *([] if follow else ["--no-follow"])]
        self._sources = sources
        self.engine = start_engine(family, devices, **options)
        self._tell_versions()

    def _tell_versions(self):
        self.engine.post("/standin/versions", versions=self._sources)

    def running(self):
        return self.engine.process.running()

    def kill(self):
        self.engine.kill9()

    def restart(self):
        if self.running():
            self.engine.kill9()
        if os.path.exists(self.engine.address):
            os.unlink(self.engine.address)  # a Unix socket outlives its server
        self.engine.start_again()
        self._tell_versions()

    def dead_ranks(self):
        return [rank["device"] for rank in self.engine.state()["ranks"] if not rank["alive"]]

    def forget_faults(self):
        self.engine.misbehave("normal")
        for device in self.devices:
            self.engine.fault(device, "none")


class World:
    def __init__(self, seed, slowness=1.0, engines=ENGINES, torch=False):
        self.times = {name: seconds * slowness for name, seconds in TIMES.items()}
        self.directory = tempfile.mkdtemp(prefix="soak-", dir="/tmp")
        self.daemon, self.members = None, []
        try:
            self._make_checkpoints(seed)
            self._make_daemon(sum(row[2] for row in engines))
            first = 0
            for name, family, ranks, options in engines:
                devices = [f"HOST-{number}" for number in range(first, first + ranks)]
                first += ranks
                options = {**options, "rank": None, "torch": TORCH[name]} if torch and name in TORCH else options
                self.members.append(Member(name, family, devices, self.sources, **options))
            self.register()
        except BaseException:  # an interrupt too: nothing may stay behind
            self.close()
            raise

    def _make_checkpoints(self, seed):
        one = checkpoints.make_llama(os.path.join(self.directory, "1"), MODEL_BYTES, 3, seed)
        self.sources = {"m@1": one}
        for number in range(2, VERSIONS + 1):
            target = os.path.join(self.directory, str(number))
            self.sources[f"m@{number}"] = checkpoints.make_second(one, target, number)
        self.big = checkpoints.make_llama(os.path.join(self.directory, "big"), BIG_BYTES, 2, seed)

    def _make_daemon(self, devices):
        seconds = {name: f"{int(length * 1000)}ms" for name, length in self.times.items()}
        self.daemon = harness.Daemon({
            "device": {"kind": "host", "host_devices": devices},
            "store": {"budget": "192MiB"},
            "watch": {"poll": "200ms", "poll_slowest": "500ms", "retry": "500ms", "retry_slowest": "2s"},
            "jobs": {"history": 20, "record_memory": "4MiB"},  # so that what grows is a leak
            "timeouts": {**seconds, "nccl_start": seconds["connect"]},
        })
        self.daemon.start()

    def register(self):
        for member in self.members:
            self.daemon.must("engine", "add", member.name, "--endpoint", member.engine.endpoint, "--checkpoint", "m",
                             "--devices", ",".join(member.devices), *member.registration)

    def start_daemon(self):
        """Again, with the state directory that it left; whatever was in its store is gone."""
        self.daemon.start()

    def resident(self):
        listed = self.daemon.http("GET", "/v1/checkpoints")[1]["versions"]
        return {f"{each['name']}@{each['version']}" for each in listed if each["state"] == "resident"}

    def ensure_resident(self, version):
        if version not in self.resident():
            self.daemon.load(version, self.sources[version])

    def member(self, name):
        return next(each for each in self.members if each.name == name)

    def close(self):
        for member in self.members:
            member.engine.close()
        if self.daemon:
            self.daemon.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def logs(self, lines):
        parts = [("ckptd", self.daemon)] + [(member.name, member.engine) for member in self.members]
        return "\n".join(f"---- the last {lines} lines of {name}\n" + "\n".join(telling(part.log(2_000_000))[-lines:])
                         for name, part in parts)


def telling(log):
    """Without what is only somebody's look."""
    return [line for line in log.splitlines() if "control: " not in line and '"GET ' not in line]
