"""What operators and loads do while an update goes on: a table of functions of (world, version). None of it may make the
update fail, unless its row says so; what is refused is refused in order."""

import harness

REFUSALS = ("conflict", "busy", "not_found", "cancelled")


def expect(answer, *kinds):
    if answer.code != 0 and answer.code not in [harness.EXIT[kind] for kind in kinds]:
        raise AssertionError(f"neither done nor refused in order: {answer}")


def evict_and_load_another(world, version):
    other = next(each for each in world.sources if each != version)
    expect(world.daemon.ctl("evict", other), *REFUSALS)
    expect(world.daemon.ctl("load", other, world.sources[other]), *REFUSALS)


def evict_what_is_pushed(world, version):
    expect(world.daemon.ctl("evict", version), *REFUSALS)


def load_what_is_nowhere(world, version):
    if world.daemon.ctl("load", "bad@1", "/nowhere").code == 0:
        raise AssertionError("a load from /nowhere succeeded")


def load_something_large(world, version):
    expect(world.daemon.ctl("load", "big@1", world.big), *REFUSALS)
    expect(world.daemon.ctl("evict", "big@1"), *REFUSALS)


def update_to_another(world, version):
    other = next(each for each in world.sources if each != version)
    world.daemon.ctl("update", other)  # refused, or after the first one, or before it: all of that is in order


def cancel(world, version):
    for job in world.daemon.http("GET", "/v1/jobs")[1]["jobs"]:
        if job["kind"] == "update" and job["state"] == "running":
            expect(world.daemon.ctl("job", "cancel", job["id"]), *REFUSALS)


def watch_all(world, version):
    for words in (("status",), ("list",), ("engine", "list"), ("job", "list")):
        world.daemon.must(*words)


# name: (weight, function, whether the update's outcome may be another because of it)
TABLE = {
    "nothing": (10, None, False),
    "evict and load another": (4, evict_and_load_another, False),
    "evict what is pushed": (2, evict_what_is_pushed, False),
    "load what is nowhere": (1, load_what_is_nowhere, False),
    "load something large": (2, load_something_large, False),
    "update to another": (2, update_to_another, True),
    "cancel": (2, cancel, True),
    "look at everything": (2, watch_all, False),
}
