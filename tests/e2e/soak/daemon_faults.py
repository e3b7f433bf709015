"""What can happen to the daemon while it updates: a table of functions of (world, delay). Each ends with a daemon that
runs again, and returns what it did if that differs from its name."""

import os
import signal
import subprocess
import sys
import time

import harness

GROUP_BYTES = 400 << 20  # of which ckptd leaves 256 MiB to others
HUNGRY = f"import sys; sys.stdin.read(); bytearray({GROUP_BYTES})"


def kill(world, delay):
    time.sleep(delay)
    world.daemon.kill9()
    world.start_daemon()


def kill_twice(world, delay):
    kill(world, delay)
    world.daemon.kill9()
    world.start_daemon()


def kill_and_wait(world, delay):
    time.sleep(delay)
    world.daemon.kill9()
    time.sleep(1.5)
    world.start_daemon()


def terminate(world, delay):
    time.sleep(delay)
    code = world.daemon.terminate()
    if code != 0:
        raise AssertionError(f"SIGTERM is an orderly end, and ckptd ended with {code}")
    world.start_daemon()


def kill_while_loading(world, delay):
    world.daemon.ctl("load", "big@1", world.big, "--detach")
    kill(world, delay)


def out_of_memory(world, delay):
    """The kernel kills it in the middle of a load, because a neighbour in its control group wants more than there is.
    (By itself it does not come to that: it refuses a load for which its group has no room.)"""
    time.sleep(delay)
    try:
        group = MemoryGroup(GROUP_BYTES)
    except OSError as error:
        kill_while_loading(world, 0.05)
        return f"SIGKILL while it loads, because no memory group can be made here: {error}"
    try:
        group.take(world.daemon.process.pid)
        with open(f"/proc/{world.daemon.process.pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # before its neighbour
        world.daemon.ctl("load", "big@1", world.big, "--detach")
        neighbour = subprocess.Popen([sys.executable, "-c", HUNGRY], stdin=subprocess.PIPE, preexec_fn=harness.die_with_parent)
        try:
            group.take(neighbour.pid)
            neighbour.stdin.close()
            ended = world.daemon.process.wait(30)
        finally:
            neighbour.kill()
            neighbour.wait(10)
        if ended != -signal.SIGKILL:
            raise AssertionError(f"out of memory, ckptd ended with {ended} and not by the kernel's SIGKILL")
    finally:
        world.daemon.kill9()
        group.remove()
    world.start_daemon()
    return ""


class MemoryGroup:
    """A memory control group of its own, version 1 or 2. Raises OSError where none can be made."""

    def __init__(self, limit):
        second = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        parent = "/sys/fs/cgroup" if second else "/sys/fs/cgroup/memory"
        self.path = os.path.join(parent, f"ckptd-soak-{os.getpid()}")
        os.mkdir(self.path)
        try:
            self._write("memory.max" if second else "memory.limit_in_bytes", limit)
        except OSError:
            self.remove()
            raise

    def _write(self, name, value):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as file:
            file.write(str(value))

    def take(self, pid):
        self._write("cgroup.procs", pid)

    def remove(self):
        for _ in range(100):
            try:
                os.rmdir(self.path)
                return
            except OSError:
                time.sleep(0.05)  # until the last process of it is gone


TABLE = {
    "SIGKILL": (4, kill),
    "SIGKILL twice": (2, kill_twice),
    "SIGKILL, back later": (2, kill_and_wait),
    "SIGTERM": (4, terminate),
    "SIGKILL while it loads": (2, kill_while_loading),
    "out of memory": (3, out_of_memory),
}
