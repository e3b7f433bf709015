"""A Debian 12 of our own under a real systemd: debootstrap's tree, booted with systemd-nspawn, without a network.

The tree and the packages that ours depends on are kept in build/system, so a second run downloads nothing. Each container
is a copy of it. Nothing outlives the object: systemd-nspawn dies with this process, and takes the container along.

What a host has to offer, and what was found out about it:
- root, systemd-nspawn, mount and PID namespaces. Where these are missing, Unavailable says what it was.
- Control groups: Debian 12's systemd wants the unified hierarchy. SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 gives the container
  one of its own, also on a host with the hybrid one, whose PID 1 need not be systemd (then --keep-unit, since nobody
  could be asked for a scope).
- CAP_SYS_RESOURCE, to raise the limit of locked memory and to lower the OOM score. systemd goes on without; see
  Container.may_raise_limits.

Commands run through nsenter and not machinectl or systemd-run --machine, which need the host's systemd and D-Bus.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE = float(os.environ.get("CKPTD_TEST_PATIENCE") or 1)
SUITE = "bookworm"
# What a machine has that runs systemd services, and Python for the stand-in engine.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "init-system-helpers", "python3", "acl", "curl")
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "dpkg-deb")
_LIBC = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """No such container can be had here; the text says why."""


def _die_with_parent():
    _LIBC.prctl(1, signal.SIGKILL)


def _run(command, seconds, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=seconds, preexec_fn=_die_with_parent, **options)


def _last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def check_host():
    if os.geteuid() != 0:
        raise Unavailable("it needs root")
    for tool in TOOLS:
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise Unavailable(f"{tool} is not installed (scripts/debian-packages-system.txt)")


def base_tree(cache):
    """The tree of debootstrap, made once. It is copied or mounted elsewhere, and never changed."""
    key = hashlib.sha256(repr((SUITE, PACKAGES)).encode()).hexdigest()[:12]
    base = os.path.join(cache, f"{SUITE}-{key}")
    if os.path.isdir(base):
        return base
    making = tempfile.mkdtemp(prefix="making-", dir=cache)
    os.chmod(making, 0o755)  # the container's /
    try:
        made = _run(["debootstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES), SUITE, making], 600)
        if made.returncode != 0:
            raise Unavailable(f"debootstrap failed, is there a network? {_last_line(made.stdout)}")
        os.rename(making, base)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return base


def _download_dependencies(base, package):
    """Into the base's own cache of packages, once for each list of dependencies."""
    wanted = subprocess.run(["dpkg-deb", "-f", package, "Depends"], check=True, capture_output=True, text=True).stdout
    marker = os.path.join(base, "var/cache/ckptd-depends")
    if os.path.exists(marker):
        with open(marker, encoding="utf-8") as file:
            if file.read() == wanted:
                return
    shutil.copy(package, os.path.join(base, "ckptd.deb"))
    apt = ["apt-get", "-q", "-y", "-o", "APT::Sandbox::User=root", "--no-install-recommends"]
    for step in (["update"], ["install", "--download-only", "/ckptd.deb"]):
        done = _run(["chroot", base, *apt, *step], 300)
        if done.returncode != 0:
            raise Unavailable(f"what the package depends on cannot be had, is there a network? {_last_line(done.stdout)}")
    with open(marker, "w", encoding="utf-8") as file:
        file.write(wanted)


class Done:
    def __init__(self, command, code, output):
        self.command, self.code, self.output = command, code, output

    def __str__(self):
        return f"{self.command}: exit {self.code}\n{self.output}"


class Container:
    def __init__(self, cache, package, read_only_binds):
        """`read_only_binds` is {path in the container: path here}. The package is /ckptd.deb."""
        check_host()
        os.makedirs(cache, exist_ok=True)
        base = base_tree(cache)
        _download_dependencies(base, package)
        self.tree = tempfile.mkdtemp(prefix="running-", dir=cache)
        self.log_path = self.tree + ".log"
        self.process = None
        try:
            subprocess.run(["cp", "-a", "--reflink=auto", base + "/.", self.tree], check=True)
            shutil.copy(package, os.path.join(self.tree, "ckptd.deb"))
            self._boot(read_only_binds)
        except BaseException:
            self.close()
            raise

    def _boot(self, binds):
        command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--private-network", "--console=pipe",
                   "--machine=ckptd-test-" + str(os.getpid()), "-D", self.tree,
                   *(f"--bind-ro={here}:{there}" for there, here in binds.items())]
        if not os.path.isdir("/run/systemd/system"):
            command.append("--keep-unit")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                                            preexec_fn=_die_with_parent)
        deadline = time.monotonic() + 60 * PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Unavailable(f"systemd-nspawn cannot boot a container here: {_last_line(self.console())}")
            if self._leader() and self.run("systemctl is-system-running", 10).output.strip() in ("running", "degraded"):
                return
            time.sleep(0.2)
        raise Unavailable(f"systemd did not come up in a container here: {_last_line(self.console())}")

    def _leader(self):
        """The container's PID 1, as the host counts."""
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
                children = file.read().split()
        except OSError:
            return None
        return children[0] if children else None

    def console(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def run(self, script, seconds=60):
        """A bash script in the container, ended at the deadline."""
        limit = seconds * PATIENCE
        command = ["nsenter", "-t", self._leader() or "0", "--all", "--", "/usr/bin/env", "-i", "TERM=dumb", "LANG=C.UTF-8",
                   "DEBIAN_FRONTEND=noninteractive", "PYTHONDONTWRITEBYTECODE=1",
                   "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "timeout", "--kill-after=5", str(limit), "/bin/bash", "-c", script]
        done = _run(command, limit + 30, cwd="/")
        return Done(script, done.returncode, done.stdout)

    def must(self, script, seconds=60):
        done = self.run(script, seconds)
        if done.code != 0:
            raise AssertionError(str(done))
        return done.output

    def may_raise_limits(self):
        """Whether systemd can lift the limit of locked memory here, as on any machine of its own."""
        return self.must("systemd-run --quiet --wait --pipe -p LimitMEMLOCK=infinity bash -c 'ulimit -Hl'").strip() == (
            "unlimited")

    def close(self):
        if self.process and self.process.poll() is None:
            leader = self._leader()
            self.process.kill()
            # The container's PID 1 mostly dies with it, but not always; everything else dies with that one.
            if leader:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(leader), signal.SIGKILL)
            self.process.wait(30)
        for attempt in range(50):
            shutil.rmtree(self.tree, ignore_errors=True)
            if not os.path.exists(self.tree):
                break
            time.sleep(0.1)
        else:
            print(f"could not remove {self.tree}", file=sys.stderr)
        if os.path.exists(self.log_path):
            os.remove(self.log_path)
