"""What is soaked: one daemon, several engines of several kinds, some versions of one model."""

import os
import shutil
import tempfile

import harness
from harness import checkpoints

# Engines differ in kind, in the number of ranks, each on devices of its own, and in what the ranks run. A new kind that the
# harness has a stand-in for is a row here.
ENGINES = (
    # name, kind, ranks, the options of its ranks and of its server
    ("one", "sglang", 1, {}),
    ("four", "sglang", 4, {}),
    ("oldest", "sglang", 1, {"rank": "--dialect A", "unix": True}),
    ("older", "sglang", 1, {"rank": "--dialect B"}),
    ("draft", "sglang", 2, {"arguments": ("--draft-models", "1")}),
    ("vllm", "vllm", 2, {}),
    ("old-vllm", "vllm", 1, {"rank": "--dialect C", "unix": True}),
    ("lmdeploy", "lmdeploy", 2, {"arguments": ("--empty-init",)}),
)
MODEL_BYTES, BIG_BYTES = 4_000_000, 48_000_000
VERSIONS = 3
# Seconds, short so that hours hold many of them.
TIMES = {"connect": 4, "reload": 3, "release": 3, "finish": 3, "upload": 6, "engine": 9, "answer_grace": 2, "ping": 4,
         "custody": 10, "shutdown": 6}


def start_engine(kind, devices, rank=None, **options):
    commands = [f"{harness.REFERENCE_RANK} {rank}"] if rank else None
    return harness.Engine(devices=devices, kind=kind, rank_commands=commands, **options)


class Member:
    """One engine of the node, as the soak knows it."""

    def __init__(self, name, kind, devices, options):
        self.name, self.kind, self.devices = name, kind, devices
        self.engine = start_engine(kind, devices, **options)
        self.fresh = True  # its ranks began anew, and nothing was loaded into them by an update that succeeded

    def running(self):
        return self.engine.process.running()

    def kill(self):
        self.fresh = True
        self.engine.kill9()

    def restart(self):
        self.fresh = True
        if self.running():
            self.engine.kill9()
        if os.path.exists(self.engine.address):
            os.unlink(self.engine.address)  # a Unix socket outlives its server
        self.engine.start_again()

    def dead_ranks(self):
        return [rank["device"] for rank in self.engine.state()["ranks"] if not rank["alive"]]

    def forget_faults(self):
        self.engine.misbehave("normal")
        for device in self.devices:
            self.engine.fault(device, "none")


class World:
    NOTICES_RESTARTS = False  # whether the daemon finds out by itself that a server began anew

    def __init__(self, seed, slowness=1.0, engines=ENGINES):
        self.times = {name: seconds * slowness for name, seconds in TIMES.items()}
        self.directory = tempfile.mkdtemp(prefix="soak-", dir="/tmp")
        self.daemon, self.members = None, []
        try:
            self._make_checkpoints(seed)
            self._make_daemon(sum(row[2] for row in engines))
            first = 0
            for name, kind, ranks, options in engines:
                devices = [f"HOST-{number}" for number in range(first, first + ranks)]
                first += ranks
                self.members.append(Member(name, kind, devices, options))
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
            "jobs": {"history": 20, "record_memory": "4MiB"},  # so that what grows is a leak
            "timeouts": {**seconds, "nccl_start": seconds["connect"]},
        })
        self.daemon.start()

    def register(self):
        for member in self.members:
            self.daemon.add_engine(member.name, member.engine, "m", devices=member.devices)

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
        return "\n".join(f"---- the last {lines} lines of {name}\n" + "\n".join(part.log().splitlines()[-lines:])
                         for name, part in parts)
