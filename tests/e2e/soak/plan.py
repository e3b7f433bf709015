"""Pure: from the seed and a step's number to what happens in it."""

import dataclasses
import random

from . import bystanders, daemon_faults, engine_faults, orders

DAEMON_FAULT_IN = 5  # one step in so many, in every second stretch of steps: in the others the daemon gets old
STRETCH = 40
HEAL_AT_LEAST_EVERY = 10
NODE = "the node"  # in place of an engine: drained as a whole


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
    max_unavailable: int = 0
    drained: str = ""   # an engine, or NODE, that is out of service meanwhile
    order: str = "nothing"  # what an operator does afterwards: a row of orders.py
    of: str = ""        # to which engine
    to: str = ""        # with which version

    def __str__(self):
        parts = [f"update {self.version}"]
        if self.engines:
            parts.append("of " + "+".join(self.engines))
        parts += self.flags
        parts += [f"[{engine}: {roll}]" for engine, roll in self.faults.items()]
        if self.daemon_fault:
            parts.append(f"[daemon: {self.daemon_fault} after {self.daemon_delay:.1f} s]")
        if self.max_unavailable:
            parts.append(f"--max-unavailable {self.max_unavailable}")
        if self.drained:
            parts.append(f"[out of service: {self.drained}]")
        if self.bystander != "nothing":
            parts.append(f"[meanwhile: {self.bystander}]")
        if self.order != "nothing":
            parts.append(f"[afterwards: {self.order}, {self.of}, {self.to}]")
        return " ".join(parts)


def weighted(dice, table):
    """`table` maps names to weights."""
    return dice.choices(list(table), list(table.values()))[0]


def roll_fault(dice, member):
    name = weighted(dice, {fault.name: fault.weight for fault in engine_faults.known_to(member.family)})
    return engine_faults.Roll(name, dice.choice(member.devices), dice.randrange(3), 0.2 + dice.random())


def roll_flags(dice):
    flags = ("--keep-cache",) if dice.random() < 0.2 else ()
    flags += dice.choices(((), ("--on-failure", "repush"), ("--on-failure", "hold")), (6, 1, 1))[0]
    return flags + (("--pause", "none") if dice.random() < 0.08 else ())


def plan(seed, number, members, versions):
    """`members` have name, family and devices. Everything is rolled always, so that one roll does not change the next."""
    dice = random.Random(f"{seed}/{number}")
    names = [member.name for member in members]
    version = versions[number % len(versions)] if dice.random() < 0.8 else dice.choice(versions)
    some = tuple(sorted(dice.sample(names, dice.randint(1, len(members)))))
    engines = some if dice.random() < 0.25 and len(some) < len(members) else ()
    daemon_fault = ""
    if dice.randrange(DAEMON_FAULT_IN) == 0 and number // STRETCH % 2 == 0:
        daemon_fault = weighted(dice, {name: row[0] for name, row in daemon_faults.TABLE.items()})
    delay = dice.random() * dice.choice((0.3, 1.2))  # an update that nothing holds up takes some tenths of a second
    bystander = weighted(dice, {name: row[0] for name, row in bystanders.TABLE.items()})
    rolls = {member.name: roll_fault(dice, member) for member in members}
    heal = dice.random() < 0.4 or number % HEAL_AT_LEAST_EVERY == 0
    flags = roll_flags(dice)
    max_unavailable = dice.choices((0, 1, 2), (8, 1, 1))[0]
    drained = dice.choice((*names, NODE)) if dice.random() < 0.1 else ""
    order = weighted(dice, {name: row[0] for name, row in orders.TABLE.items()})
    of, to = dice.choice(names), dice.choice(versions)
    if "none" in flags:  # which LMDeploy has no words for: it takes weights while it sleeps
        can = tuple(member.name for member in members if member.family != "lmdeploy" and member.name in (engines or names))
        engines, flags = (can, flags) if can else (engines, flags[:-2])
    faults = {name: roll for name, roll in rolls.items()
              if roll.fault != "nothing" and name in (engines or names) and drained not in (name, NODE)}
    return Plan(number, version, engines, faults, daemon_fault, delay, "nothing" if daemon_fault or drained else bystander,
                flags, heal, max_unavailable, drained, order, *((of, to) if order != "nothing" else ("", "")))
