"""Goes step by step, asserts, and tells of it: what scripts/soak and the test run."""

import argparse
import collections
import json
import os
import random
import signal
import sys
import threading
import time

import harness

from . import bystanders, daemon_faults, engine_faults, invariants, leaks, orders, plan as plans, world as worlds

WARM_UP_UPDATES = 3
TORCH_SLOWNESS = 3  # what a worker collects after each session takes seconds on a busy machine


class Failure(Exception):
    """A step after which something does not hold."""


class Background:
    """A thread whose exception is raised by whoever waits for it."""

    def __init__(self, function, *arguments):
        self.value = self._error = None
        self._thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self._thread.start()

    def _run(self, function, arguments):
        try:
            self.value = function(*arguments)
        except Exception as error:
            self._error = error

    def running(self):
        return self._thread.is_alive()

    def result(self, what, seconds):
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        if self._error:
            raise self._error
        return self.value


class Soak:
    def __init__(self, seed, world):
        self.seed, self.world = seed, world
        self.baseline, self.counts = leaks.Baseline(), collections.Counter()
        self.longest_call = self.longest_update = 0.0
        self.held, self.pauses = {}, 0

    def warm_up(self):
        for version in self.world.sources:
            self.world.ensure_resident(version)
        for number in range(WARM_UP_UPDATES):
            self.heal(list(self.world.sources)[number % len(self.world.sources)])

    # -- a step

    def step(self, plan):
        """Runs it and asserts what must hold. Returns what happened, in words."""
        self.world.ensure_resident(plan.version)
        out_of_service = self._drain(plan)
        for name, roll in plan.faults.items():
            before = engine_faults.BY_NAME[roll.fault].before
            if before:
                before(self.world.member(name), roll, self.world.times)
        said = self._update(plan)
        invariants.daemon_answers(self.world.daemon)
        invariants.untouched(self.world, out_of_service)
        self._settle(plan)
        if orders.TABLE[plan.order][1]:
            orders.TABLE[plan.order][1](self.world, plan)
            self.counts["order: " + plan.order] += 1
            self._rest()
        if plan.heal:
            self.heal(plan.version)
            said += ", healed"
        leaks.check_store(self.world.daemon, sum(len(member.devices) for member in self.world.members))
        self.held = self.baseline.check(self.world.daemon, 10 * harness.PATIENCE)
        return said

    def _drain(self, plan):
        """Takes out of service what the plan says. Returns what was called of those so far, by name."""
        if not plan.drained:
            return {}
        members = self.world.members if plan.drained == plans.NODE else [self.world.member(plan.drained)]
        self.world.daemon.must("drain", *(("--all",) if plan.drained == plans.NODE else (plan.drained,)))
        self.counts["out of service: " + ("the node" if plan.drained == plans.NODE else "an engine")] += 1
        for member in members:
            invariants.at_rest(self.world, member)
        return {member.name: invariants.calls_of(member) for member in members}

    def _undrain(self, plan):
        if plan.drained:
            self.world.daemon.must("undrain", *(("--all",) if plan.drained == plans.NODE else (plan.drained,)))

    @staticmethod
    def is_refused(plan):
        """Somebody names an engine that is out of service, or all of them are."""
        return plan.drained == plans.NODE or plan.drained in plan.engines and bool(plan.drained)

    def _update(self, plan):
        # By their names, so that one that the daemon is at by itself is waited for: what befalls it here is planned. Where
        # one is out of service nobody is named, so that it is left out.
        names = plan.engines or ([] if plan.drained else [member.name for member in self.world.members])
        engines = [word for name in names for word in ("--engine", name)]
        self._newest_update = self._newest()
        serving = self._serving_undisturbed(plan)
        begun = time.monotonic()
        update = Background(self._ctl_update, plan.max_unavailable, plan.version, *engines, *plan.flags)
        during = [Background(engine_faults.BY_NAME[roll.fault].during, self.world.member(name), roll, self.world.times)
                  for name, roll in plan.faults.items() if engine_faults.BY_NAME[roll.fault].during]
        _, bystander, void = bystanders.TABLE[plan.bystander]
        if bystander:
            during.append(Background(self._beside, update, bystander, plan.version))
        away, said = 0.0, ""
        try:
            if plan.daemon_fault:
                started = time.monotonic()
                said = daemon_faults.TABLE[plan.daemon_fault][1](self.world, plan.daemon_delay) or ""
                away = time.monotonic() - started
                self.counts["daemon: " + plan.daemon_fault] += 1
        finally:
            for each in during:
                each.result("what goes on beside the update", 120 * harness.PATIENCE)
        answer = update.result("the update to end", 120 * harness.PATIENCE)
        self.counts["updates"] += 1
        for roll in plan.faults.values():
            self.counts["engine: " + roll.fault] += 1
        self.counts["meanwhile: " + plan.bystander] += 1
        self._away = away
        if not plan.daemon_fault:
            # One after the other, each has the time that it is given.
            invariants.update_ended_in_time(self.world, self._update_seconds, len(plan.faults) if plan.max_unavailable else 0)
            self.longest_update = max(self.longest_update, self._update_seconds)
        if plan.max_unavailable and not plan.daemon_fault:
            self.counts["rolling"] += 1
            invariants.at_most(self.world, serving, plan.max_unavailable, begun)
        if not plan.daemon_fault and self.is_refused(plan):
            if answer.code != harness.EXIT["conflict"]:
                raise AssertionError(f"{plan.drained} is out of service, and the update was not refused: {answer}")
        elif not plan.daemon_fault and not void:
            self._check_outcomes(plan, answer)
        return said + ("" if not said else "; ") + ("updated" if answer.code == 0 else "failed in order")

    def _serving_undisturbed(self, plan):
        """Those that requests may be sent to and that nothing will befall: what --max-unavailable counts, whatever the
        daemon has seen of the others."""
        return [member.name for member in self.world.members
                if member.name not in plan.faults and self.world.daemon.engine(member.name)["ready"]]

    def _ctl_update(self, max_unavailable, *words):
        """As an operator would: once more while the daemon is at one of the engines by itself."""
        deadline = time.monotonic() + 30 * harness.PATIENCE
        while True:
            if "--engine" not in words:
                harness.wait_until("the daemon's own updates", lambda: not any(
                    self.world.daemon.engine(member.name)["state"] == "updating" for member in self.world.members), 120)
            started = time.monotonic()
            # Mostly all at once: each is to come to what its own fault makes of it, however many others are out of service.
            answer = self.world.daemon.ctl("update", *words, "--max-unavailable", str(max_unavailable))
            self._update_seconds = time.monotonic() - started
            if answer.code != harness.EXIT["busy"] or time.monotonic() > deadline:
                return answer
            time.sleep(0.2)

    def _beside(self, update, bystander, version):
        """Once the update is under way, so that it cannot be refused because of it."""
        known = self._newest_update
        while update.running() and self._newest() == known:
            time.sleep(0.01)
        bystander(self.world, version)

    def _newest(self):
        jobs = self.world.daemon.http("GET", "/v1/jobs")[1]["jobs"]
        return max((int(job["id"].rsplit("-", 1)[1]) for job in jobs if job["kind"] == "update"), default=0)

    def _check_outcomes(self, plan, answer):
        """Each engine came to what its own fault makes of it, whatever befell the others."""
        failed = []
        for member in self.world.members:
            if plan.engines and member.name not in plan.engines or member.name == plan.drained:
                continue
            roll = plan.faults.get(member.name)
            expected = engine_faults.BY_NAME[roll.fault].outcome if roll else engine_faults.SUCCEEDS
            record = self.world.daemon.engine(member.name)
            serves = record["serving"] == plan.version and not record["poisoned"]
            # Of those that serve the last ones are not begun once too many have failed; they keep what they have.
            not_begun = plan.max_unavailable and plan.faults and record["serving"] and not record["poisoned"]
            if expected == engine_faults.SUCCEEDS and not serves and not not_begun:
                raise AssertionError(f"{member.name} ({roll or 'nothing befell it'}) was to serve {plan.version}: {record}; {answer}")
            failed += [member.name] if expected == engine_faults.FAILS else []
        if failed and answer.code == 0:
            raise AssertionError(f"the update succeeded, though {', '.join(failed)} failed: {answer}")
        if not failed and answer.code != 0 and not any(
                engine_faults.BY_NAME[roll.fault].outcome == engine_faults.EITHER for roll in plan.faults.values()):
            raise AssertionError(f"the update failed, though no engine did: {answer}")

    def _settle(self, plan):
        """What must hold as things are, then what the rack's supervisor does: it restarts what died."""
        world = self.world
        invariants.daemon_answers(world.daemon)
        invariants.journal_is_readable(world.daemon)
        invariants.ranks_are_free(world)
        self.longest_call = max(self.longest_call, invariants.calls_ended_in_time(world, self._away))
        invariants.one_version_or_marked(world)
        invariants.paused_only_while_a_mixture(world)
        invariants.continued_with_one_version(world)
        self._undrain(plan)
        for member in world.members:
            if not member.running() or member.dead_ranks():
                member.restart()
            else:
                member.forget_faults()
        invariants.custody_ends(world)
        self._rest()

    def _rest(self):
        """Nobody is asked for anything, and nothing is in anybody's way."""
        invariants.brought_back(self.world)
        invariants.one_version_or_marked(self.world)
        invariants.paused_only_while_a_mixture(self.world)
        self.pauses = max(self.pauses, invariants.continued_with_one_version(self.world))

    def heal(self, version):
        """A good update: afterwards all engines serve what is wanted, and hold it."""
        self.world.ensure_resident(version)
        named = [word for member in self.world.members for word in ("--engine", member.name)]
        answer = self._ctl_update(0, version, *named)
        if answer.code != 0:
            raise AssertionError(f"a good update failed: {answer}")
        self.counts["updates"] += 1
        for member in self.world.members:
            record = self.world.daemon.engine(member.name)
            if (record["serving"], record["poisoned"]) != (version, ""):
                raise AssertionError(f"after a good update of {version}: {record}")
            invariants.holds(member, version, self.world.sources[version])

    # -- all steps

    def run(self, steps, seconds=None, tell=print):
        started = time.monotonic()
        members, versions = self.world.members, list(self.world.sources)
        number, plan = 0, None
        try:
            self.warm_up()
            warm = time.monotonic()
            while number < steps and (seconds is None or time.monotonic() - warm < seconds):
                number += 1
                plan = plans.plan(self.seed, number, members, versions)
                begun = time.monotonic()
                said = self.step(plan)
                tell(f"{number:5} {time.monotonic() - begun:5.1f} s  {plan}: {said}")
            plan = None
            self.heal(versions[0])
            invariants.ranks_are_free(self.world)
            invariants.custody_ends(self.world)
        except (AssertionError, OSError, ValueError, KeyError) as error:
            what = f"step {number}: {plan}" if plan else ("the last update" if number else "the first updates")
            raise Failure(f"seed {self.seed}, {what}\n{type(error).__name__}: {error}\n"
                          f"again: scripts/soak --seed {self.seed} --steps {max(number, 1)}") from error
        self.counts["steps"] = number
        return self.summary(time.monotonic() - started)

    def summary(self, seconds):
        return {"seed": self.seed, "seconds": round(seconds, 1), "counts": dict(sorted(self.counts.items())),
                "longest_call_seconds": round(self.longest_call, 2),
                "longest_update_seconds": round(self.longest_update, 2), "held": self.held,
                "most_pauses_told": self.pauses, "most_anonymous_bytes": self.baseline.most_anonymous}


def parse_arguments(words):
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Updates engines for hours while ranks, engines and "
                                     "the daemon are killed, stall and lie; asserts after each step what must hold.")
    parser.add_argument("--steps", type=int, default=300, help="how many; default: 300")
    parser.add_argument("--seconds", type=float, help="begins no further step after this time")
    parser.add_argument("--seed", type=int, help="default: one that is printed")
    parser.add_argument("--json", metavar="FILE", help="writes what it came to")
    parser.add_argument("--log-lines", type=int, default=60, help="of each process, when a step failed; default: 60")
    parser.add_argument("--torch", action="store_true", help="some ranks run the worker of checkpoint-engine under torch; slow")
    parser.add_argument("--plan", action="store_true", help="only prints what would happen")
    return parser.parse_args(words)


def leave(number, _frame):
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def print_plan(seed, steps):
    Stub = collections.namedtuple("Stub", "name family devices")
    members = [Stub(name, family, [f"rank {number}" for number in range(ranks)])
               for name, family, ranks, _ in worlds.ENGINES]
    versions = [f"m@{number + 1}" for number in range(worlds.VERSIONS)]
    for number in range(1, steps + 1):
        print(f"{number:5}  {plans.plan(seed, number, members, versions)}")


def main(words=None):
    arguments = parse_arguments(words)
    seed = random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    if arguments.plan:
        print_plan(seed, arguments.steps)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    if arguments.torch and not harness.test_python():
        sys.exit("scripts/soak: there is no Python environment with torch (see scripts/test)")
    slowness = min(harness.PATIENCE, 2) * (TORCH_SLOWNESS if arguments.torch else 1)
    world = worlds.World(seed, slowness, torch=arguments.torch)
    try:
        summary = Soak(seed, world).run(arguments.steps, arguments.seconds, lambda line: print(line, flush=True))
    except Failure as failure:
        print(world.logs(arguments.log_lines), file=sys.stderr)
        print(f"\nFAILED: {failure}", file=sys.stderr, flush=True)
        return 1
    finally:
        world.close()
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=2)
    print(json.dumps(summary, indent=2))
    return 0
