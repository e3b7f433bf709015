"""Pure: from the seed and a step's number to what happens in it."""

import dataclasses
import random

from . import bystanders, daemon_faults, engine_faults

DAEMON_FAULT_IN = 5  # one step in so many, in every second stretch of steps: in the others the daemon gets old
STRETCH = 40
HEAL_AT_LEAST_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    number: int
    version: str
    engines: tuple      # names; empty: all
    faults: dict        # engine -> Roll
    daemon_fault: str   # or empty
    daemon_delay: float
    bystander: str
    flags: tuple        # of ckptctl update
    heal: bool

    def __str__(self):
        parts = [f"update {self.version}"]
        if self.engines:
            parts.append("of " + "+".join(self.engines))
        parts += self.flags
        parts += [f"[{engine}: {roll}]" for engine, roll in self.faults.items()]
        if self.daemon_fault:
            parts.append(f"[daemon: {self.daemon_fault} after {self.daemon_delay:.1f} s]")
        if self.bystander != "nothing":
            parts.append(f"[meanwhile: {self.bystander}]")
        return " ".join(parts)


def weighted(dice, table):
    """`table` maps names to weights."""
    return dice.choices(list(table), list(table.values()))[0]


def roll_fault(dice, member):
    name = weighted(dice, {fault.name: fault.weight for fault in engine_faults.known_to(member.kind)})
    return engine_faults.Roll(name, dice.choice(member.devices), dice.randrange(3), 0.2 + dice.random())


def plan(seed, number, members, versions):
    """`members` have name, kind and devices."""
    dice = random.Random(f"{seed}/{number}")
    version = versions[number % len(versions)] if dice.random() < 0.8 else dice.choice(versions)
    some = tuple(sorted(dice.sample([member.name for member in members], dice.randint(1, len(members)))))
    engines = some if dice.random() < 0.25 and len(some) < len(members) else ()
    daemon_fault = ""
    if dice.randrange(DAEMON_FAULT_IN) == 0 and number // STRETCH % 2 == 0:
        daemon_fault = weighted(dice, {name: row[0] for name, row in daemon_faults.TABLE.items()})
    delay = dice.random() * dice.choice((0.3, 1.2))  # an update that nothing holds up takes some tenths of a second
    bystander = weighted(dice, {name: row[0] for name, row in bystanders.TABLE.items()})
    flags = ("--keep-cache",) if dice.random() < 0.2 else ()
    faults = {}
    for member in members:  # rolled for all of them, so that a change of `engines` changes nothing else
        roll = roll_fault(dice, member)
        if roll.fault != "nothing" and (not engines or member.name in engines):
            faults[member.name] = roll
    heal = dice.random() < 0.4 or number % HEAL_AT_LEAST_EVERY == 0
    return Plan(number, version, engines, faults, daemon_fault, delay, "nothing" if daemon_fault else bystander, flags, heal)
