"""What every check is given: where things are, what the machine is, the two checkpoints, servers and daemons to work with.

Not run against a live server.
"""

import os
import subprocess

from . import servers

GIB = 1 << 30
_TELL = """
import importlib.metadata, json, sys
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


class Context:
    def __init__(self, where, machine, scratch, arguments, devices):
        self.place, self.machine, self.scratch = where, machine, scratch
        self.kind, self.python, self.rehearsal = arguments.kind, arguments.python, arguments.rehearse
        self.first, self.other = arguments.model, arguments.other
        self.more, self.start_seconds = arguments.server_args, arguments.start_seconds
        self.devices = devices
        self.port = arguments.port or servers.free_port()
        self.results = {}
        self._servers = 0

    # -- for the frame

    def why_not(self, check):
        if check.gpu and not self.rehearsal and not self.devices:
            return "it needs a GPU: " + (self.machine["no_gpu"] or "none was found")
        return ""

    def told_to_start(self, check):
        print(f"   ... {check.name}: {check.question} (at most {check.seconds:g} s)", flush=True)

    # -- for the checks

    def measured(self, check, name):
        return self.results[check].measured[name]

    def packages(self):
        """{name: version, or None} of what the server's Python has."""
        import json

        names = [servers.KINDS[self.kind].package, "checkpoint-engine", "torch"]
        done = subprocess.run([self.python, "-c", _TELL, *names], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"{self.python} cannot be run: {done.stderr.strip().splitlines()[-1:]}")
        return json.loads(done.stdout)

    def bytes(self):
        return sum(os.stat(path).st_size for directory in (self.first, self.other)
                   for path in self.place.import_harness().checkpoints.files_of(directory))

    def server(self, model, dummy):
        """Not started. The caller ends it."""
        self._servers += 1
        make = servers.KINDS[self.kind]
        if self.rehearsal:
            build = os.path.dirname(self.place.bin_directory)
            make = servers.rehearsed(self.kind, os.path.join(self.place.tests, "support"), self.devices,
                                     os.path.join(build, "tests", "reference_rank"), (self.first, self.other))
        log = os.path.join(self.scratch, f"server-{os.getpid()}-{self._servers}.log")
        return make(model, dummy, self.port, log, self.python, self.more, self.start_seconds)

    def daemon(self):
        """A ckptd of this build with room for both checkpoints; not started. The caller closes it."""
        harness = self.place.import_harness()
        size = self.bytes()
        device = {"kind": "host", "host_devices": len(self.devices)} if self.rehearsal else {"kind": "cuda"}
        seconds = f"{int(60 + size / GIB * 10)}s"

        class Beside(harness.Daemon):
            DEFAULTS = {
                "": {"log_level": "debug"}, "device": device,
                "store": {"budget": str(size + max(size // 4, 256 << 20)), "lock": "try", "prefault": "off"},
                "push": {"bucket": "256KiB"} if self.rehearsal else {}, "probe": {"at_start": False},
                "timeouts": {"connect": seconds, "reload": seconds, "release": seconds, "finish": seconds,
                             "engine": "900s", "custody": "120s"},
            }

        return Beside()
