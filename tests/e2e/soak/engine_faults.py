"""What can happen to an engine during an update: a table. A new row is met by the next run.

`outcome` is what the update of this engine must come to, if nothing happens to the daemon meanwhile: "fails",
"succeeds" or "either". `before` runs before the update, `during` on a thread of its own while it goes on. `kinds` are
the kinds of engine that know the fault; None: all of them.
"""

import dataclasses
import time
from typing import Callable, Optional

FAILS, SUCCEEDS, EITHER = "fails", "succeeds", "either"


@dataclasses.dataclass(frozen=True)
class Roll:
    """What the dice said about one engine's fault."""
    fault: str
    device: str
    bucket: int
    delay: float  # seconds from the start of the update to what happens during it

    def __str__(self):
        return f"{self.fault} ({self.device}, bucket {self.bucket}, {self.delay:.1f} s)"


@dataclasses.dataclass(frozen=True)
class Fault:
    name: str
    outcome: str
    weight: int = 2
    before: Optional[Callable] = None  # (member, roll, times)
    during: Optional[Callable] = None
    kinds: Optional[tuple] = None


def rank(kind, seconds=None):
    """A fault of one rank. `seconds` is a number, or (name of a deadline, what goes beyond it)."""
    def before(member, roll, times):
        length = seconds or 0
        if isinstance(seconds, tuple):
            length = times[seconds[0]] + seconds[1]
        member.engine.fault(roll.device, kind, roll.bucket, length)
    return before


def answer(kind, update=True, seconds=0):
    """The engine's answer to its next call, whatever its ranks did."""
    return lambda member, roll, times: member.engine.misbehave(kind, update=update, seconds=seconds)


def together(*parts):
    def before(member, roll, times):
        for part in parts:
            part(member, roll, times)
    return before


def later(action):
    def during(member, roll, times):
        time.sleep(roll.delay)
        action(member, roll)
    return during


HELD = rank("stall", 60)  # keeps an update going until somebody is killed

TABLE = (
    Fault("nothing", SUCCEEDS, 120),
    # ranks that are slow, and in time
    Fault("a slow rank", SUCCEEDS, 2, rank("slow", 0.05)),
    Fault("connects late, in time", SUCCEEDS, 2, rank("connect_late", 0.8)),
    Fault("a slow post hook, in time", SUCCEEDS, 2, rank("slow_post_hook", 0.8)),
    # ranks that fail
    Fault("a rank dies", FAILS, 4, rank("die")),
    Fault("load_weights fails", FAILS, 4, rank("fail_load")),
    Fault("opening fails", FAILS, 3, rank("fail_open")),
    Fault("the post hook fails", FAILS, 3, rank("fail_post_hook")),
    Fault("a rank stalls", FAILS, 2, rank("stall", ("reload", 2))),
    Fault("the post hook is too slow", FAILS, 2, rank("slow_post_hook", ("finish", 2))),
    Fault("connects too late", FAILS, 2, rank("connect_late", ("connect", 2))),
    Fault("two on one endpoint", FAILS, 1, rank("connect_twice", 1), kinds=("sglang",)),
    # answers that never come, or lie
    Fault("never answers", FAILS, 1, answer("never")),
    Fault("never answers nor updates", FAILS, 1, answer("never", update=False)),
    Fault("500 after an update", FAILS, 1, answer("500")),
    Fault("500 without one", FAILS, 1, answer("500", update=False)),
    Fault("says no after an update", FAILS, 1, answer("failure")),
    Fault("says yes and does nothing", FAILS, 2, answer("success", update=False)),
    Fault("says yes though a rank failed", FAILS, 2, together(rank("fail_load"), answer("success"))),
    Fault("says yes too early", EITHER, 1, together(rank("slow", 0.05), answer("early_success"))),
    Fault("answers late, in time", SUCCEEDS, 1, answer("normal", seconds=1)),
    Fault("garbage for HTTP", FAILS, 1, answer("garbage")),
    Fault("garbage for JSON", FAILS, 1, answer("garbage_json")),
    Fault("a rank looks up a wrong uuid", FAILS, 1, answer("wrong_uuid")),
    Fault("closes without an answer", FAILS, 1, answer("close")),
    # kills from outside
    Fault("a rank is killed", FAILS, 3, HELD, later(lambda member, roll: member.engine.kill_rank(roll.device))),
    Fault("the server is killed", FAILS, 3, HELD, later(lambda member, roll: member.kill())),
    Fault("the server is killed and back at once", FAILS, 2, HELD, later(lambda member, roll: member.restart())),
    Fault("the server is gone", FAILS, 2, lambda member, roll, times: member.kill()),
    Fault("the server has restarted", SUCCEEDS, 3, lambda member, roll, times: member.restart()),
)
BY_NAME = {fault.name: fault for fault in TABLE}


def known_to(kind):
    return [fault for fault in TABLE if fault.kinds is None or kind in fault.kinds]
