"""What the checks of updates share: a daemon, an engine with one rank, a version in the store; and what is asked of them.

Not run on a GPU yet.
"""

import contextlib
import time

from checks import place
from checks.frame import step

NAME, ENGINE = "m", "e"


class Serving:
    """Owns both; what they logged goes to the check's log."""

    def __init__(self, context, config=None, version=place.NEWEST, before=""):
        self._context, self.harness = context, context.place.import_harness()
        self.daemon = self.engine = None
        try:
            self.engine = context.engine(version, before)
            self.daemon = context.daemon(config)
            step("ckptd to start")
            self.daemon.start()
            self.daemon.add_engine(ENGINE, self.engine, NAME, devices=[context.uuid])
        except BaseException:
            self.close()
            raise

    def close(self):
        for part in (self.engine, self.daemon):
            if part:
                part.close()
                print(f"---- {type(part).__name__}\n{part.log()}")

    # -- steps

    def load(self, version):
        step(f"version {version} to be loaded")
        seconds = 120 + self._context.bytes / (50 << 20)
        loaded = self.daemon.must("load", f"{NAME}@{version}", self._context.checkpoint(version), seconds=seconds)
        return self.daemon.job(loaded["id"])["record"]["load"]

    def update(self, version):
        """Returns the record of the push."""
        step(f"version {version} to be pushed")
        job = self.daemon.must("update", f"{NAME}@{version}", seconds=self.patience())
        return self.daemon.job(job["id"])["record"]["engines"][0]

    def patience(self):
        return 120 + self._context.bytes / (100 << 20)

    def compare(self, version):
        """Every tensor that the rank holds, where it holds it. Returns how many there are and their bytes."""
        step(f"every tensor of the rank to be compared with version {version}")
        status, results = self.engine.http("POST", "/standin/compare", {"checkpoint": self._context.checkpoint(version)},
                                           timeout=self.patience())
        result = results.get(self._context.uuid, {}) if status == 200 else {}
        if not result.get("equal"):
            raise AssertionError(f"the rank does not hold version {version}: {result.get('difference') or results}")
        return {"tensors": result["tensors"], "bytes": result["bytes"]}

    def last_answer(self):
        """What the rank said of its last session."""
        return self.engine.calls()[-1]["ranks"][self._context.uuid]

    def about_engine(self):
        return self.daemon.engine(ENGINE)


@contextlib.contextmanager
def serving(context, **options):
    both = Serving(context, **options)
    try:
        yield both
    finally:
        both.close()


def figures(push):
    """Of the record of a push with one lane, bytes a second."""
    lane = push["lanes"][0]
    rates = {"push_bytes_per_second": push["bytes"] / push["seconds"] if push["seconds"] else 0.0,
             "push_seconds": push["seconds"], "buckets": push["buckets"], "bounded_by": push["bounded_by"]}
    for stage in lane["stages"]:
        if stage["name"] in ("upload", "reload") and stage["seconds"]:
            rates[stage["name"] + "_bytes_per_second"] = stage["bytes"] / stage["seconds"]
    return rates


def wait_released(both, seconds):
    """Until the engine's call is over, whatever its end; returns how long that took."""
    started = time.monotonic()
    both.engine.wait_idle(seconds)
    return time.monotonic() - started
