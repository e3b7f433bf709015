"""Runs named checks one after the other, each in a process of its own with a deadline, and keeps what came out.

A check is a function of the context that returns an Outcome, raises Skip with a reason, or fails with any other
exception. It says with step() what it is about to wait for: when its deadline passes, that is whom the report blames.

A check that ends, by itself or not, leaves no process: whatever it started and lost is handed to this process (a child
subreaper), which ends it by its id. Ends only what is below this process, never by a name.
"""

import ctypes
import dataclasses
import json
import os
import select
import signal
import sys
import time
import traceback
from typing import Callable

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)
# From the request to end to the kill: ckptd and the ranks have clean-ups of their own.
GRACE_SECONDS = 10.0
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Skip(Exception):
    """The check cannot be made here; the text says why."""


@dataclasses.dataclass
class Outcome:
    status: str
    sentence: str
    measured: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Check:
    name: str
    question: str  # what a person wants to know
    run: Callable  # of the context
    seconds: float  # its deadline
    needs: tuple = ()  # names of checks that must have passed
    gpu: bool = True  # it cannot be made, or has no use, without one
    counts: bool = True  # once passed, something about a GPU is known: otherwise "nothing could be checked"


def passed(sentence, **measured):
    return Outcome(PASSED, sentence, measured)


_progress = None


def step(text):
    """Names what the running check does next."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
    if _progress is not None:
        os.write(_progress, (json.dumps({"step": text}) + "\n").encode())


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _child(check, context, pipe, log_path):
    """Runs the check in the process that was forked for it, with the signals blocked; never returns: what the parent
    cleans up on its way out is the parent's."""
    try:
        _run(check, context, pipe, log_path)
    finally:
        os._exit(0)


def _outcome_of(check, context, log_path):
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        return Outcome(FAILED, f"it has no log: {error}")
    for target in (1, 2):
        os.dup2(log, target)
    try:
        return check.run(context)
    except Skip as why:
        return Outcome(SKIPPED, str(why))
    except Exception as error:
        traceback.print_exc()
        return Outcome(FAILED, first_line(error))


def _run(check, context, pipe, log_path):
    global _progress
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _progress = pipe

    def leave(_number, _frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit("the deadline has passed")  # through every clean-up on the way

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us
    signal.signal(signal.SIGTERM, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    try:
        outcome = _outcome_of(check, context, log_path)
        # With the outcome the parent asks for the end at once: nothing may be cut short, or escape, by it any more.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(pipe, (json.dumps({"outcome": dataclasses.asdict(outcome)}) + "\n").encode())
    finally:
        sys.stderr.flush()


def children_of(pid):
    """Ids of the processes below `pid`, nearest first."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    # The name in parentheses may hold blanks and parentheses; the state and the parent come after it.
                    parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                pass  # gone in between
    below, frontier = [], [pid]
    while frontier:
        frontier = [each for each, parent in parents.items() if parent in frontier]
        below += frontier
    return below


def _reap():
    """Collects children that have ended, without waiting."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def end_leftovers(keep=()):
    """Ends every process below this one but `keep`; returns how many there were."""
    found = set()
    for attempt in range(100):
        _reap()
        alive = [pid for pid in children_of(os.getpid()) if pid not in keep]
        if not alive:
            break
        found.update(alive)
        for pid in alive:
            try:
                os.kill(pid, signal.SIGTERM if attempt < 20 else signal.SIGKILL)
            except OSError:
                pass
        time.sleep(0.05)
    return len(found)


class _Reader:
    """Lines of JSON from a pipe."""

    def __init__(self, descriptor):
        self._descriptor, self._rest, self.ended = descriptor, b"", False

    def read(self, seconds):
        if not select.select([self._descriptor], [], [], max(seconds, 0))[0]:
            return []
        piece = os.read(self._descriptor, 65536)
        self.ended = not piece
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [json.loads(line) for line in lines]


def run_check(check, context, log_path):
    """One check, from its start to the end of its last process."""
    started = time.monotonic()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Until the child has its own handlers, it would answer a signal with the parent's, which clean up everything.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(check, context, writing, log_path)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    os.close(writing)
    reader, outcome, last_step, late = _Reader(reading), None, "its start", False
    deadline = started + check.seconds
    try:
        while not reader.ended and outcome is None:
            for message in reader.read(deadline - time.monotonic()):
                last_step = message.get("step", last_step)
                outcome = message.get("outcome") or outcome
            if time.monotonic() >= deadline and outcome is None:
                late = True
                break
    finally:
        _end(pid, GRACE_SECONDS if outcome is None else 2.0)
        os.close(reading)
        leftovers = end_leftovers()
    if outcome:
        outcome = Outcome(**outcome)
    elif late:
        outcome = Outcome(FAILED, f"did not end within {check.seconds:g} s; it was at: {last_step}")
    else:
        outcome = Outcome(FAILED, f"its process ended without a word; it was at: {last_step}")
    if leftovers and outcome.status == PASSED:
        outcome.measured["processes_left_behind"] = leftovers
    outcome.seconds = time.monotonic() - started
    return outcome


def _end(pid, grace):
    """Asks the check's own process to end, and ends it when it does not."""
    deadline = time.monotonic() + grace
    asked = False
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        except ChildProcessError:
            return
        if not asked:
            os.kill(pid, signal.SIGTERM)
            asked = True
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.02)


def run_all(checks, context, log_directory, tell, within=None):
    """Runs the checks in order; `tell(check, outcome, results)` after each. Returns {name: Outcome}."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    results = {}
    context.results = results
    end = None if within is None else time.monotonic() + within
    for check in checks:
        missing = [name for name in check.needs if name not in results or results[name].status != PASSED]
        why_not = context.why_not(check)
        if why_not:
            outcome = Outcome(SKIPPED, why_not)
        elif missing:
            said = results[missing[0]].status if missing[0] in results else "not asked for"
            outcome = Outcome(SKIPPED, f"it needs the check {missing[0]}, which was {said}")
        elif end is not None and time.monotonic() + min(check.seconds, 30) > end:
            outcome = Outcome(SKIPPED, "no time is left (--within)")
        else:
            context.told_to_start(check)
            outcome = run_check(check, context, os.path.join(log_directory, check.name + ".log"))
        results[check.name] = outcome
        tell(check, outcome, results)
    return results
