"""What must hold after every step, whatever happened in it. Each raises AssertionError with what is wrong."""

import json
import os

import harness
from harness import checkpoints

BEYOND_DEADLINE = 10.0  # seconds that no engine call may outlive its deadline


def ranks_are_free(world):
    """No rank waits in recv once custody is over, and custody ends."""
    seconds = world.times["custody"] + BEYOND_DEADLINE
    for member in world.members:
        if member.running():
            member.engine.wait_idle(seconds)
    harness.wait_until("the custodian to let go of every session",
                       lambda: not world.daemon.http("GET", "/v1/status")[1]["in_custody"], seconds)


def calls_ended_in_time(world, daemon_was_away):
    """By the engines' own clocks: from the call until the last of its ranks had left. Returns the longest."""
    limit = world.times["engine"] + world.times["answer_grace"] + BEYOND_DEADLINE + daemon_was_away
    longest = 0.0
    for member in world.members:
        if member.running():
            for call in member.engine.calls():
                lasted = (call["ended"] or member.engine.state()["now"]) - call["started"]
                longest = max(longest, lasted)
                if lasted > limit * harness.PATIENCE:
                    raise AssertionError(f"{member.name}: a call lasted {lasted:.1f} s, its limit is {limit:.1f} s: {call}")
    return longest


def update_ended_in_time(world, seconds):
    limit = world.times["ping"] + world.times["engine"] + world.times["answer_grace"] + BEYOND_DEADLINE
    if seconds > limit * harness.PATIENCE:
        raise AssertionError(f"the update took {seconds:.1f} s, its deadlines and {BEYOND_DEADLINE:.0f} s are {limit:.1f} s")


def one_version_or_marked(world):
    """Every rank that serves holds exactly the version that the daemon says, byte for byte, or its engine is poisoned."""
    for member in world.members:
        record = at_rest(world, member)
        if record["poisoned"] or not record["serving"] or not member.running() or member.dead_ranks():
            continue
        if member.fresh and not world.NOTICES_RESTARTS:
            continue  # it serves what a server has at its start, and nobody has told the daemon yet
        holds(member, record["serving"], world.sources[record["serving"]])


def at_rest(world, member):
    """Its record, once no job has it."""
    return harness.wait_until(f"the job of {member.name} to end", lambda: (lambda record: not record["job"] and record)(
        world.daemon.engine(member.name)), world.times["engine"] + BEYOND_DEADLINE)


def holds(member, version, source):
    about = checkpoints.describe(source)
    for device, result in member.engine.post("/standin/compare", checkpoint=source).items():
        if not result.get("equal") or (result["tensors"], result["bytes"]) != (about["tensors"], about["bytes"]):
            raise AssertionError(f"{member.name} is said to serve {version}, but {device} does not hold it: {result}")


def journal_is_readable(daemon):
    path = os.path.join(daemon.state_dir, "state.json")
    with open(path, encoding="utf-8") as file:
        content = file.read()
    try:
        state = json.loads(content)
    except ValueError as error:
        raise AssertionError(f"{path} cannot be read: {error}\n{content[:2000]}") from None
    if "format" not in state:
        raise AssertionError(f"{path} does not say its format: {content[:2000]}")


def daemon_answers(daemon):
    if not daemon.process.running():
        raise AssertionError(f"ckptd has ended with {daemon.process.popen.returncode}")
    daemon.must("status")
