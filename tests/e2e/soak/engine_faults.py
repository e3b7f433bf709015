"""What can happen to an engine during an update: a table. A new row is met by the next run.

`outcome` is what the update of this engine must come to, if nothing happens to the daemon meanwhile: "fails",
"succeeds" or "either". `before` runs before the update, `during` on a thread of its own while it goes on. `families`
are those of world.py that know the fault; None: all of them.
"""

import dataclasses
import time
from typing import Callable, Optional

FAILS, SUCCEEDS, EITHER = "fails", "succeeds", "either"
# Whose ranks open sessions of the worker protocol. vLLM's own weight transfer is HTTP alone: the answer is the only word.
SESSIONS = ("sglang", "draft", "vllm", "lmdeploy")


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
    families: Optional[tuple] = None


def rank(kind, seconds=None, session=0):
    """A fault of one rank, in its first session or a later one. `seconds` is a number, or (name of a deadline, .., what goes
    beyond them)."""
    def before(member, roll, times):
        length = seconds or 0
        if isinstance(seconds, tuple):
            length = sum(times[name] for name in seconds[:-1]) + seconds[-1]
        member.engine.fault(roll.device, kind, roll.bucket, length, session)
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
    Fault("connects late, in time", SUCCEEDS, 2, rank("connect_late", 0.8), families=SESSIONS),
    Fault("a slow post hook, in time", SUCCEEDS, 2, rank("slow_post_hook", 0.8), families=SESSIONS),
    # ranks that fail
    Fault("a rank dies", FAILS, 4, rank("die")),
    Fault("load_weights fails", FAILS, 4, rank("fail_load")),
    Fault("opening fails", FAILS, 3, rank("fail_open"), families=SESSIONS),
    Fault("the post hook fails", FAILS, 3, rank("fail_post_hook"), families=SESSIONS),
    Fault("a rank stalls", FAILS, 2, rank("stall", ("reload", 2))),
    # The oldest worker finishes with its answer to the release, and has the time of both.
    Fault("the post hook is too slow", FAILS, 2, rank("slow_post_hook", ("release", "finish", 2)), families=SESSIONS),
    Fault("connects too late", FAILS, 2, rank("connect_late", ("connect", 2)), families=SESSIONS),
    Fault("two on one endpoint", FAILS, 1, rank("connect_twice", 1), families=("sglang", "draft")),
    # the session of a draft model, after the target's has ended well
    Fault("comes back late for the draft, in time", SUCCEEDS, 4, rank("connect_late", 0.8, 1), families=("draft",)),
    Fault("does not come back for the draft in time", EITHER, 3, rank("connect_late", ("connect", 2), 1), families=("draft",)),
    Fault("a rank dies in the draft's session", FAILS, 6, rank("die", session=1), families=("draft",)),
    Fault("load_weights of the draft fails", FAILS, 6, rank("fail_load", session=1), families=("draft",)),
    Fault("opening fails for the draft", FAILS, 4, rank("fail_open", session=1), families=("draft",)),
    Fault("the draft's post hook fails", FAILS, 4, rank("fail_post_hook", session=1), families=("draft",)),
    Fault("a rank stalls in the draft's session", FAILS, 4, rank("stall", ("reload", 2), 1), families=("draft",)),
    # answers that never come, or lie
    Fault("never answers", FAILS, 1, answer("never")),
    Fault("never answers nor updates", FAILS, 1, answer("never", update=False)),
    Fault("500 after an update", FAILS, 1, answer("500")),
    Fault("500 without one", FAILS, 1, answer("500", update=False)),
    Fault("says no after an update", FAILS, 1, answer("failure")),
    Fault("says yes and does nothing", FAILS, 2, answer("success", update=False), families=SESSIONS),
    Fault("says yes though a rank failed", FAILS, 2, together(rank("fail_load"), answer("success")), families=SESSIONS),
    Fault("says yes too early", EITHER, 1, together(rank("slow", 0.05), answer("early_success")), families=SESSIONS),
    Fault("answers late, in time", SUCCEEDS, 1, answer("normal", seconds=1)),
    Fault("garbage for HTTP", FAILS, 1, answer("garbage")),
    Fault("garbage for JSON", FAILS, 1, answer("garbage_json"), families=SESSIONS),
    Fault("a rank looks up a wrong uuid", FAILS, 1, answer("wrong_uuid"), families=SESSIONS),
    Fault("closes without an answer", FAILS, 1, answer("close")),
    # kills from outside
    Fault("a rank is killed", FAILS, 3, HELD, later(lambda member, roll: member.engine.kill_rank(roll.device))),
    Fault("the server is killed", FAILS, 3, HELD, later(lambda member, roll: member.kill())),
    Fault("the server is killed and back at once", FAILS, 2, HELD, later(lambda member, roll: member.restart())),
    Fault("the server is gone", FAILS, 2, lambda member, roll, times: member.kill()),
    Fault("the server has restarted", SUCCEEDS, 3, lambda member, roll, times: member.restart()),
)
BY_NAME = {fault.name: fault for fault in TABLE}


def known_to(family):
    return [fault for fault in TABLE if fault.families is None or family in fault.families]
