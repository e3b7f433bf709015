"""What an operator does between two updates, when everything has come to rest: a table of functions of (world, plan).
What is refused is refused in order; what engines come to afterwards, invariants.py asserts."""

import harness

from . import bystanders


def roll_back(world, plan):
    for version in world.sources:
        world.ensure_resident(version)
    bystanders.expect(world.daemon.ctl("rollback", "--engine", plan.of), *bystanders.REFUSALS)


def move_the_target(world, plan):
    world.ensure_resident(plan.to)
    world.daemon.must("engine", "set", plan.of, "--target", plan.to)


def verify(world, plan):
    """Of engines that hold what they should nobody says that they do not."""
    answer = world.daemon.ctl("verify", plan.of)
    if answer.code == harness.EXIT["peer_failed"]:
        raise AssertionError(f"{plan.of} is said to hold something else than it was given: {answer}")
    bystanders.expect(answer, *bystanders.REFUSALS, "unsupported", "unavailable")


def take_out_and_back(world, plan):
    world.daemon.must("drain", plan.of)
    if world.daemon.engine(plan.of)["ready"]:
        raise AssertionError(f"{plan.of} is out of service, and ready")
    bystanders.expect(world.daemon.ctl("update", plan.to, "--engine", plan.of), "conflict", "not_found")
    world.daemon.must("undrain", plan.of)


# name: (weight, function)
TABLE = {
    "nothing": (14, None),
    "roll back": (2, roll_back),
    "move the target": (2, move_the_target),
    "verify": (3, verify),
    "take out and back": (1, take_out_and_back),
}
