"""What must hold after every step, whatever happened in it. Each raises AssertionError with what is wrong."""

import json
import os
import time

import harness
from harness import checkpoints

BEYOND_DEADLINE = 10.0  # seconds that no engine call may outlive its deadline, which world.times has in the machine's measure
SEEN_WITHIN = 5.0  # seconds from a server's restart until the daemon tells of it
A_MIXTURE = "a mixture"  # as the stand-ins say it


def ranks_are_free(world):
    """No rank waits in recv once custody is over."""
    seconds = world.times["custody"] + BEYOND_DEADLINE
    for member in world.members:
        if member.running():
            member.engine.wait_idle(seconds)


def custody_ends(world):
    """Once nobody's server is dead any more: until then those that follow are tried again, in vain."""
    seconds = world.times["custody"] + BEYOND_DEADLINE
    harness.wait_until("the custodian to let go of every session",
                       lambda: not world.daemon.http("GET", "/v1/status")[1]["in_custody"], seconds)


def calls_ended_in_time(world, daemon_was_away):
    """By the engines' own clocks: from the call until the last of its ranks had left. Returns the longest."""
    limit = world.times["engine"] + world.times["answer_grace"] + BEYOND_DEADLINE * harness.PATIENCE + daemon_was_away
    longest = 0.0
    for member in world.members:
        if member.running():
            for call in member.engine.calls():
                lasted = (call["ended"] or member.engine.state()["now"]) - call["started"]
                longest = max(longest, lasted)
                if lasted > limit:
                    raise AssertionError(f"{member.name}: a call lasted {lasted:.1f} s, its limit is {limit:.1f} s: {call}")
    return longest


def update_ended_in_time(world, seconds, engines_before=0):
    """`engines_before` of those that fail may have been waited for, one after the other."""
    each = world.times["ping"] + world.times["engine"] + world.times["answer_grace"]
    beyond = BEYOND_DEADLINE * harness.PATIENCE
    limit = each * (1 + engines_before) + beyond
    if seconds > limit:
        raise AssertionError(f"the update took {seconds:.1f} s, its deadlines and {beyond:.0f} s are {limit:.1f} s")


def seen_within(seconds, check):
    """What happened a moment ago may not have been seen yet."""
    deadline = time.monotonic() + seconds * harness.PATIENCE
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def one_version_or_marked(world):
    """Every rank that serves holds exactly the version that the daemon says, byte for byte, or its engine is shown as what
    it is: poisoned, gone, waiting."""
    for member in world.members:
        def check(member=member):
            record = at_rest(world, member)
            if not record["poisoned"] and record["serving"] and member.running() and not member.dead_ranks():
                holds(member, record["serving"], world.sources[record["serving"]])
        seen_within(SEEN_WITHIN, check)


def continued_with_one_version(world):
    """By the engines' own word: when requests went on, each rank held one version, or what it was started with. Who was in
    the middle of an update that had not touched it could not be asked. Returns how many pauses were ended so far."""
    ended = 0
    for member in world.members:
        if not member.running():
            continue
        state = member.engine.state()
        if member.pause == "none" and state["pauses"]:
            raise AssertionError(f"{member.name} is never to be paused: {state['pauses']}")
        for pause in state["pauses"]:
            held = set(pause["held"].values())
            if A_MIXTURE in held or len({version for version in held if "@" in version}) > 1:
                raise AssertionError(f"{member.name} was resumed while it held no single version: {pause}")
            ended += pause["continued"] is not None
    return ended


def paused_only_while_a_mixture(world):
    """Whom ckptd has paused it has let go on, unless it may hold a mixture; and then it has not."""
    for member in world.members:
        def check(member=member):
            record = at_rest(world, member)
            if not member.running() or member.dead_ranks():
                return
            paused, drained = member.engine.state()["paused"], record["state"] == "draining"
            if paused and record["serving"] and not record["poisoned"] and not drained:
                raise AssertionError(f"{member.name} holds {record['serving']} and is still paused ({paused}): {record}")
            if record["poisoned"] and record["paused"] and not paused:
                raise AssertionError(f"{member.name} may hold a mixture and is not paused any more: {record}")
            if paused and not record["paused"]:
                raise AssertionError(f"{member.name} is paused ({paused}), and nobody will resume it: {record}")
        seen_within(SEEN_WITHIN, check)


def untouched(world, calls_before):
    """Nothing was pushed into those that are out of service."""
    for name, before in calls_before.items():
        member = world.member(name)
        if not world.daemon.engine(name)["drained"]:
            raise AssertionError(f"{name} was taken out of service and is not any more")
        if member.running() and calls_of(member) != before:
            raise AssertionError(f"{name} is out of service and was called: {before}, {calls_of(member)}")


def calls_of(member):
    state = member.engine.state()
    return state["pid"], len(state["calls"]), len(state["pauses"])


def at_most(world, names, number, since):
    """Of these engines at most `number` were called at a time. `since` is by the clock that all of them share."""
    calls = [(call["started"], call["ended"] or float("inf"), name) for name in names for call in (
        world.member(name).engine.calls() if world.member(name).running() else ()) if call["started"] >= since]
    for started, _, name in calls:
        beside = {other for begin, end, other in calls if begin <= started < end}
        if len(beside) > number:
            raise AssertionError(f"{number} engines may be out of service at once, and {sorted(beside)} were, at {name}'s "
                                 f"call: {sorted(calls)}")


def brought_back(world):
    """Those that follow come to their targets without a word from anybody, hold them and are ready; or are held as they
    are, since their on_failure says so."""
    seconds = world.times["custody"] + world.times["engine"] + BEYOND_DEADLINE
    for member in world.members:
        if not member.follow:
            continue
        target = world.daemon.engine(member.name)["target"]
        if not target:
            continue  # nobody has given it one yet
        world.ensure_resident(target)

        def arrived(member=member, target=target):
            record = world.daemon.engine(member.name)
            if record["job"]:
                return None
            if record["held"] and record["poisoned"]:
                return record
            return record if record["ready"] and (record["state"], record["serving"]) == ("serving", target) else None
        try:
            record = harness.wait_until(f"{member.name} to be brought to {target} by itself", arrived, seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}; {world.daemon.engine(member.name)}") from None
        if not record["held"]:
            holds(member, target, world.sources[target])


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
