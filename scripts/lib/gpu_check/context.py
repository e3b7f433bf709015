"""What every check is given: where things are, what the machine is, how large, and the daemon and engine to work with.

Not run on a GPU yet.
"""

import os
import shlex
import shutil
import sys

from checks import place
from checks.frame import Skip, step

GIB = 1 << 30
DEFAULT_BYTES = 8 * GIB
SMALLEST_BYTES = 1 << 20


def bytes_for(machine, device=None):
    """Of one version, by default: on the GPU it lies once beside an arena and the buffers of the other sender, in host
    memory up to six times (two versions in files and in the store, one with the other sender)."""
    limits = [DEFAULT_BYTES, machine["memory"]["available_bytes"] // 10]
    chosen = [each for each in machine["devices"] if each.get("uuid") == device] or machine["devices"][:1]
    limits += [each["bytes"] // 8 for each in chosen]
    return max(min(limits), SMALLEST_BYTES)


class Context:
    def __init__(self, where, machine, scratch, python, size, rehearsal, nccl, device=None):
        self.place, self.machine, self.scratch, self.python = where, machine, scratch, python
        self.bytes, self.rehearsal, self.nccl = size, rehearsal, nccl
        self.results = {}
        self._run_id = os.getpid()
        self.uuid = "HOST-0" if rehearsal else device

        self._library_path = os.environ.get("LD_LIBRARY_PATH")
        if nccl:
            self._let_nccl_be_found()

    def _let_nccl_be_found(self):
        """Under the name that ckptd and the contract suites open, in a folder that holds nothing else. Not for torch, which
        has its own and may be made for another one."""
        folder = os.path.join(self.scratch, "nccl")
        os.mkdir(folder)
        os.symlink(os.path.realpath(self.nccl), os.path.join(folder, "libnccl.so.2"))
        paths = [folder, self._library_path]
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)

    # -- for the frame

    def why_not(self, check):
        """Why a check cannot be made here at all, or nothing."""
        if check.gpu and not self.rehearsal and not self.uuid:
            return "it needs a GPU: " + (self.machine["no_gpu"] or "none was found")
        return ""

    def told_to_start(self, check):
        print(f"   ... {check.name}: {check.question} (at most {check.seconds:g} s)", file=sys.stderr, flush=True)

    # -- for the checks

    def needs_real_gpu(self):
        if self.rehearsal:
            raise Skip("it needs a GPU, and this is a rehearsal on host memory")

    def measured(self, check, name):
        """A figure of a check that has passed, or None."""
        outcome = self.results.get(check)
        return outcome.measured.get(name) if outcome else None

    def checkpoint(self, version):
        return os.path.join(self.fast_directory(), f"ckptd-gpu-check-{self._run_id}-{version}")

    def fast_directory(self):
        """tmpfs if two versions fit there with room to spare, the scratch directory otherwise."""
        shm = "/dev/shm"
        if os.path.isdir(shm) and shutil.disk_usage(shm).total > 3 * self.bytes:
            return shm
        return self.scratch

    def python_environment(self, version=place.NEWEST):
        environment = self.place.environment(self.machine["python"], version)
        environment.pop("LD_LIBRARY_PATH", None)
        return {**environment, **({"LD_LIBRARY_PATH": self._library_path} if self._library_path else {})}

    def daemon(self, config=None):
        """A ckptd of this build on the device; not started. The caller closes it."""
        harness = self.place.import_harness()
        kind = {"kind": "host", "host_devices": 1} if self.rehearsal else {"kind": "cuda"}
        spare = min(max(self.bytes // 2, 64 << 20), 3 * GIB)  # a version ends somewhere in a segment of at most 1 GiB
        seconds = f"{int(60 + self.bytes / GIB * 10)}s"

        class OnTheDevice(harness.Daemon):
            DEFAULTS = {
                "": {"log_level": "debug"},
                "device": kind,
                "store": {"budget": str(self.bytes * 2 + spare), "lock": "try", "prefault": "off"},
                "push": {}, "probe": {"at_start": False},
                "timeouts": {"connect": seconds, "reload": seconds, "release": seconds, "finish": seconds,
                             "engine": "300s", "custody": "60s"},
            }

        if self.rehearsal:
            config = {**(config or {}), "push": {"bucket": "512KiB", **(config or {}).get("push", {})}}
        return OnTheDevice(config)

    def rank_program(self):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu_rank.py")
        return [program, "--support", os.path.join(self.place.tests, "support"), "--memory",
                "host" if self.rehearsal else "cuda"]

    def engine(self, version=place.NEWEST, before=""):
        """A stand-in SGLang whose one rank runs the unmodified worker of this version of checkpoint-engine. `before`
        goes before the rank's command."""
        if version not in self.place.worker_versions():
            raise Skip(f"checkpoint-engine {version} is only in a bundle")
        harness = self.place.import_harness()
        environment = self.python_environment(version)
        # The rank inherits ours, where the library path is ckptd's. Before `before`: a program that changes the user may
        # start what the new user could not look up.
        given = ["env", "-u", "LD_LIBRARY_PATH"]
        if "LD_LIBRARY_PATH" in environment:
            given = ["env", "LD_LIBRARY_PATH=" + environment.pop("LD_LIBRARY_PATH")]
        os.environ.update(environment)
        command = f"{shlex.join(given)} {before} {shlex.join([self.python, '-B', *self.rank_program()])}"
        step(f"a rank with checkpoint-engine {version} to import torch")
        return harness.Engine([self.uuid], rank_commands=[command])
