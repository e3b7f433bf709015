"""What an update leaves behind when somebody dies in the middle of it: nobody may be left waiting, and the next full
update heals. The same stories are told on host memory by tests/e2e; here the memory is a GPU's, mapped by another process.

Not run on a GPU yet.
"""

import time

from checks.frame import Check, passed, step
from .updates import NAME, serving, wait_released

BUCKETS = 8  # at least so many, so that there is a middle


def small_buckets(context):
    size = max(context.bytes // BUCKETS, 512 << 10)
    # No bucket can be smaller than the largest tensor, and ckptd says so if one is.
    return {"push": {"bucket": str(max(size, largest_tensor(context)))}}


def largest_tensor(context):
    checkpoints = context.place.import_harness().checkpoints
    sizes = [end - begin for path in checkpoints.files_of(context.checkpoint(1))
             for *_, begin, end in checkpoints.read_header(path)[1]]
    return -(-max(sizes) // 4096) * 4096


def heal(both):
    """A full update into the same engine, whatever happened before."""
    step("the engine's rank to be as new")
    both.engine.reset()
    both.update(1)
    held = both.compare(1)
    engine = both.about_engine()
    if engine["serving"] != f"{NAME}@1" or engine["poisoned"]:
        raise AssertionError(f"a full update did not heal the engine: {engine}")
    return held


def check_rank_killed(context):
    """By SIGKILL, while it loads its second bucket."""
    with serving(context, config=small_buckets(context)) as both:
        both.load(1)
        both.engine.fault(context.uuid, "die", 1)
        step("an update whose rank dies to fail")
        started = time.monotonic()
        answer = both.daemon.ctl("update", f"{NAME}@1", seconds=both.patience())
        seconds = time.monotonic() - started
        if answer.code == 0:
            raise AssertionError("the update was a success, although its rank was killed")
        if context.uuid not in answer.error.get("sentence", ""):
            raise AssertionError(f"the error does not name the rank: {answer.error}")
        if not both.about_engine()["poisoned"]:
            raise AssertionError("the engine is not poisoned, although the rank died with half of the weights")
        heal(both)
        push = both.update(1)
    return passed("the update failed and named the rank; the next ones, into a new process, were whole",
                  failed_after_seconds=seconds, buckets=push["buckets"], error=answer.error.get("sentence", ""))


def check_daemon_killed(context):
    """By SIGKILL, while the rank loads a bucket; then started again."""
    with serving(context, config=small_buckets(context)) as both:
        both.load(1)
        both.engine.hold(context.uuid, bucket=1)
        both.daemon.detached("update", f"{NAME}@1")
        step("the rank to be in its second bucket")
        both.engine.wait_held(context.uuid)
        if both.engine.idle():
            raise AssertionError("the update was over before the daemon could be killed: use more --bytes")
        both.daemon.kill9()
        step("ckptd to start again")
        both.daemon.start()
        both.engine.go()
        step("the rank to be released")
        seconds = wait_released(both, 60)
        status = both.engine.calls()[-1]["status"]
        if status < 400:
            raise AssertionError(f"the engine's call ended with {status}, although its update was cut off")
        if not both.about_engine()["poisoned"]:
            raise AssertionError("the engine is not poisoned, although it may hold a mixture")
        both.load(1)
        heal(both)
    return passed(f"the rank was free {seconds:.1f} s after it looked at its socket again; the next update was whole",
                  released_after_seconds=seconds)


def checks(_context):
    return [
        Check("rank-killed", "a rank dies in mid-update: who notices?", check_rank_killed, 420, ("update",)),
        Check("daemon-killed", "ckptd dies in mid-update: is the rank freed?", check_daemon_killed, 420, ("update",)),
    ]
