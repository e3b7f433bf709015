"""The checks: an engine's whole flow, each from a server that was just started.

Not run against a live server.
"""

import os
import subprocess
import time

from checks.frame import Check, Skip, passed, step

from . import servers
from .beside import ENGINE, FIRST, OTHER, beside

HELD_SECONDS = 600  # at most, in a rehearsal, where an update would be over before anybody could be killed in it


def check_programs(context):
    """Passed where a server of the kind can be started at all."""
    ckptd = subprocess.run([context.place.bin_directory + "/ckptd", "--version"], capture_output=True, text=True, timeout=30)
    if ckptd.returncode != 0:
        raise AssertionError(f"ckptd --version ended with {ckptd.returncode}: {ckptd.stderr.strip()}")
    version = ckptd.stdout.split()[-1]
    if context.rehearsal:
        return passed(f"ckptd {version} and the stand-in of {context.kind}", ckptd=version)
    packages = context.packages()
    package = servers.KINDS[context.kind].package
    if not packages[package]:
        raise Skip(f"{context.python} has no package {package}: name with --python the one that the server runs with")
    if not packages["checkpoint-engine"]:
        raise AssertionError(f"{context.python} has no package checkpoint-engine, which the workers of {context.kind} import: "
                             f"{context.python} -m pip install checkpoint-engine")
    return passed(f"{package} {packages[package]}, checkpoint-engine {packages['checkpoint-engine']}", ckptd=version, **packages)


def cold_start(context, directory):
    server = context.server(directory, dummy=False).start()
    try:
        started = time.monotonic()
        server.wait_serving()
        seconds = time.monotonic() - started
        outputs = server.output()
        if server.output() != outputs:
            raise AssertionError(f"{context.kind} answers the same prompts differently at temperature 0, so nothing can be "
                                 "compared: add to --server-args what makes it deterministic")
        return outputs, seconds
    finally:
        server.end()
        print(f"---- {server.kind}\n{server.log()}")


def check_cold_first(context):
    outputs, seconds = cold_start(context, context.first)
    return passed(f"{outputs[0]!r}", outputs=outputs, start_seconds=seconds)


def check_cold_other(context):
    outputs, seconds = cold_start(context, context.other)
    if outputs == context.measured("cold-first", "outputs"):
        raise AssertionError("both checkpoints give the same output, so nothing would be seen: name another one with --other")
    return passed(f"{outputs[0]!r}", outputs=outputs, start_seconds=seconds)


def check_first_weights(context):
    with beside(context) as both:
        seconds = both.first_weights()
        both.must_answer_as("cold-first")
    return passed("brought from dummy weights by ckptd itself; greedy output as after a cold start", seconds=seconds)


def check_update(context):
    with beside(context) as both:
        both.first_weights()
        job = both.update(OTHER)
        record = both.daemon.job(job["id"])["record"]["engines"][0]
        both.must_answer_as("cold-other")
        label = both.about().get("label", "")
    return passed("greedy output of the second version", seconds=record["seconds"], bytes=record["bytes"], label=label)


def check_rollback(context):
    with beside(context) as both:
        both.first_weights()
        both.update(OTHER)
        step("the rollback")
        both.daemon.must("rollback", "--engine", ENGINE, seconds=both.patience())
        both.wait_serving(FIRST)
        both.must_answer_as("cold-first")
    return passed("greedy output of the first version again")


def check_server_killed(context):
    with beside(context) as both:
        both.first_weights()
        both.update(OTHER)
        both.server.kill()
        step("the server to start again")
        both.server.start()
        both.server.wait_listening()
        listening = time.monotonic()
        deadline = listening + both.patience()
        while not both.about().get("restarts"):
            if time.monotonic() > deadline:
                raise AssertionError(f"ckptd did not notice that the server restarted: {both.about()}")
            time.sleep(0.2)
        both.wait_serving(OTHER)
        seconds = time.monotonic() - listening
        both.server.wait_serving()
        both.must_answer_as("cold-other")
    return passed("killed, started again with dummy weights, brought back by ckptd itself", seconds_from_listening=seconds)


def check_daemon_killed(context):
    with beside(context) as both:
        both.first_weights()
        gate = os.path.join(both.daemon.directory, "go")
        if context.rehearsal:
            both.server.hold(HELD_SECONDS, gate)
        both.daemon.detached("update", OTHER, "--engine", ENGINE, "--force")
        step("the update to push")
        deadline = time.monotonic() + both.patience()
        while "pushing" not in both.phases() and both.about()["state"] == "updating" and time.monotonic() < deadline:
            time.sleep(0.005)
        in_the_middle = "pushing" in both.phases()
        both.daemon.kill9()
        step("ckptd to start again")
        both.daemon.start()
        started = time.monotonic()
        open(gate, "w").close()
        about = both.about()
        if in_the_middle and about["serving"] == OTHER:
            raise AssertionError(f"ckptd says that an update that it was killed in succeeded: {about}")
        both.load()
        both.update(OTHER)
        seconds = time.monotonic() - started
        both.server.wait_serving()
        both.must_answer_as("cold-other")
        both.wait_serving(OTHER)
    return passed("killed " + ("while it pushed" if in_the_middle else "when it had just pushed (the model is small)")
                  + "; the server was freed, and the update repeated", seconds_to_healed=seconds)


def checks(context):
    start = context.start_seconds
    flow = ("cold-first", "cold-other")
    return [
        Check("programs", "is the server installed, with what its workers import?", check_programs, 150, (), gpu=False),
        Check("cold-first", "what does the server say when started from the first files?", check_cold_first, start + 300,
              ("programs",), counts=False),
        Check("cold-other", "and from the other files?", check_cold_other, start + 300, ("cold-first",), counts=False),
        Check("first-weights", "does a server with dummy weights come to say the same?", check_first_weights, start + 900, flow),
        Check("update", "and after an update what the other files say?", check_update, start + 900, ("first-weights",)),
        Check("rollback", "and after a rollback what it said before?", check_rollback, start + 900, ("first-weights",)),
        Check("server-killed", "is a server that restarted brought back?", check_server_killed, 2 * start + 900,
              ("first-weights",)),
        Check("daemon-killed", "is a server free again whose ckptd was killed in mid-update?", check_daemon_killed, start + 1500,
              ("first-weights",)),
    ]
