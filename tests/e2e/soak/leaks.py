"""What the daemon holds, seen from outside: it must come back to what it held."""

import os
import time

ANONYMOUS_ALLOWANCE = 48 << 20  # allocators keep what threads once had, and stay there; what leaks grows past any bound
SEGMENT, ARENA = "/memfd:ckptd-segment", "/memfd:ckptd-device"


def held(daemon):
    """Counts of what a daemon holds, and its anonymous memory in bytes (the store and arenas are shared memory). The
    store keeps the segments that it once took, up to its budget, and each device an arena: check_store() counts them."""
    pid = daemon.process.pid
    files = [file for file in daemon.open_files() if not file.startswith((SEGMENT, ARENA))]
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        memory = next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        shared = {line.split(None, 5)[5].strip() for line in maps if "/dev/shm/" in line}
    shared.update(file for file in files if file.startswith("/dev/shm/"))
    return {"descriptors": len(files), "threads": len(os.listdir(f"/proc/{pid}/task")),
            "memory files": sum(file.startswith("/memfd:") for file in files),
            "sockets of ranks": len(daemon.rank_sockets()),
            "files in the runtime directory": sum(len(names) for _, _, names in os.walk(daemon.runtime_dir)),
            "files of shared memory": len(shared), "anonymous bytes": memory}


def check_store(daemon, devices):
    """Segments lie within the budget, what is lent belongs to versions, and no device has a second arena."""
    status = daemon.http("GET", "/v1/status")[1]
    if status["lent_bytes"] + status["idle_bytes"] > status["budget_bytes"]:
        raise AssertionError(f"the store holds more than its budget: {status}")
    files = daemon.open_files()
    segments, arenas = (sum(file.startswith(kind) for file in files) for kind in (SEGMENT, ARENA))
    if arenas > devices:
        raise AssertionError(f"{devices} devices have {arenas} arenas")
    most = (status["lent_bytes"] + status["idle_bytes"]) // status["segment_bytes"] + 1
    if segments > most:
        raise AssertionError(f"{segments} segments are open, the store says {most} at most: {status}")
    if not status["versions_resident"] and not status["running_jobs"] and status["lent_bytes"]:
        raise AssertionError(f"no version is resident, and memory is lent: {status}")


class Baseline:
    """What one process of the daemon held when it had done everything once. The first looks are the warm-up."""

    WARM_UP = 3

    def __init__(self):
        self._pid, self._looks, self.limits, self.most_anonymous = None, 0, {}, 0

    def check(self, daemon, seconds):
        """After a step. Waits for threads and sockets of what has ended; raises AssertionError when they stay."""
        if daemon.process.pid != self._pid:
            self._pid, self._looks, self.limits = daemon.process.pid, 0, {}
        deadline = time.monotonic() + seconds
        self._looks += 1
        while True:
            now = held(daemon)
            grown = {what: (limit, now[what]) for what, limit in self.limits.items() if now[what] > limit}
            if self._looks <= self.WARM_UP or not grown:
                break
            if time.monotonic() > deadline:
                names = ", ".join(f"{what} from {limit} to {number}" for what, (limit, number) in grown.items())
                raise AssertionError(f"the daemon holds more than it did: {names}\n" + "\n".join(sorted(daemon.open_files())))
            time.sleep(0.1)
        self.most_anonymous = max(self.most_anonymous, now["anonymous bytes"])
        if self._looks <= self.WARM_UP:
            self._widen(now)
        return now

    def _widen(self, now):
        for what, number in now.items():
            allowance = ANONYMOUS_ALLOWANCE if what == "anonymous bytes" else 1  # one client may be on its way
            self.limits[what] = max(self.limits.get(what, 0), number + allowance)
