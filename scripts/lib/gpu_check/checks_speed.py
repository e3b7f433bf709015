"""How fast it is beside what else this machine can do. These checks have no limits to pass: they fail when something cannot
be measured. Figures go to the table and the JSON file, with the goal that they are held against and whether it was reached.

Not run on a GPU yet.
"""

import json
import os
import subprocess

from checks.frame import Check, passed, step
from .updates import NAME, figures, serving

ROUNDS = 3
GOAL_SHARE_OF_PINNED = 0.95
GOAL_LOAD_BYTES_PER_SECOND, GOAL_LOAD_CORES = 25e9, 16
HERE = os.path.dirname(os.path.abspath(__file__))


def program(context, name, *arguments, seconds):
    """Runs a program of this folder under the Python that has torch; returns the JSON that it prints."""
    done = subprocess.run([context.python, "-B", os.path.join(HERE, name), *arguments], stdin=subprocess.DEVNULL,
                          env=context.python_environment(), capture_output=True, text=True, timeout=seconds)
    print(done.stderr)
    if done.returncode != 0:
        raise AssertionError(f"{name}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return json.loads(done.stdout)


def files_of(context, version):
    return context.place.import_harness().checkpoints.files_of(context.checkpoint(version))


def rate(value):
    return f"{value / 1e9:.2f} GB/s"


def held_against(goal, reached):
    return f"the goal is {goal}: {'reached' if reached else 'missed'}"


def check_upload(context):
    """The best push of some; its rank clones every tensor, as an engine that has no place of its own for them."""
    with serving(context) as both:
        both.load(1)
        pushes = [figures(both.update(1)) for _ in range(ROUNDS)]
    best = max(pushes, key=lambda push: push.get("upload_bytes_per_second", 0))
    if "upload_bytes_per_second" not in best:
        raise AssertionError(f"the record of the push has no time for its uploads: {best}")
    if context.rehearsal:
        return passed(f"uploads at {rate(best['upload_bytes_per_second'])}, in host memory", **best)
    step("the best pinned copies to be measured")
    limit = program(context, "rates.py", "pinned", "--device", context.uuid, seconds=120)["bytes_per_second"]
    share = best["upload_bytes_per_second"] / limit
    reached = share >= GOAL_SHARE_OF_PINNED
    return passed(f"uploads at {rate(best['upload_bytes_per_second'])}, {share:.1%} of the best pinned copy, {rate(limit)}; "
                  f"{held_against(f'{GOAL_SHARE_OF_PINNED:.0%}', reached)}",
                  pinned_bytes_per_second=limit, share_of_pinned=share, goal_reached=reached, **best)


def check_other_sender(context):
    context.needs_real_gpu()
    with serving(context) as both:
        both.load(1)
        ours = min((both.update(1)["seconds"], both.last_answer()["load_seconds"]) for _ in range(ROUNDS))
        both.compare(1)
        both.daemon.terminate()  # its arena would be missing to the other
        both.engine.reset()
        step("the ParameterServer of checkpoint-engine to push the same files")
        theirs = program(context, "parameter_server.py", "--port", both.engine.address, "--device", context.uuid,
                         "--rounds", str(ROUNDS), *files_of(context, 1), seconds=400)
        both.compare(1)
        inside = [call["ranks"][context.uuid]["load_seconds"] for call in both.engine.calls()[-ROUNDS:]]
    best = min(zip(theirs["update_seconds"], inside))
    return passed(f"a whole update took ckptd {ours[0]:.2f} s ({ours[1]:.2f} s of it inside the worker, which loads) and "
                  f"checkpoint-engine's ParameterServer {best[0]:.2f} s ({best[1]:.2f} s inside), the best of {ROUNDS}",
                  ckptd_seconds=ours[0], ckptd_seconds_inside_the_worker=ours[1], parameter_server_seconds=best[0],
                  parameter_server_seconds_inside_the_worker=best[1], all_of_theirs=theirs)


def check_load_file(context):
    context.needs_real_gpu()
    step("safetensors to load the same files")
    plain = program(context, "rates.py", "load-file", "--device", context.uuid, *files_of(context, 1), seconds=300)
    ours = context.measured("other-sender", "ckptd_seconds")
    beside = f"; a whole update by ckptd took {ours:.2f} s" if ours else ""
    return passed(f"safetensors.torch.load_file(device=\"cuda\") takes {plain['seconds']:.2f} s, "
                  f"{rate(plain['bytes_per_second'])}{beside}", **plain)


def check_load(context):
    """Twice into memory that no version had before, twice into memory that others have left."""
    loads = []
    with serving(context) as both:
        for _ in range(2):
            for version in (1, 2):
                load = both.load(version)
                loads.append({"seconds": load["seconds"], "bytes_per_second": load["bytes"] / load["seconds"],
                              "bounded_by": load["bounded_by"]})
            for version in (1, 2):
                both.daemon.must("evict", f"{NAME}@{version}")
    fresh = max(load["bytes_per_second"] for load in loads[:2])
    used = max(load["bytes_per_second"] for load in loads[2:])
    where = "tmpfs" if context.fast_directory() == "/dev/shm" else context.fast_directory()
    cores, goal = len(os.sched_getaffinity(0)), {}
    said = f"from {where}: {rate(fresh)} into new memory, {rate(used)} into memory that was used before, on {cores} cores"
    if where == "tmpfs" and cores >= GOAL_LOAD_CORES:
        goal = {"goal_reached": used >= GOAL_LOAD_BYTES_PER_SECOND}
        said += "; " + held_against(f"{rate(GOAL_LOAD_BYTES_PER_SECOND)} on {GOAL_LOAD_CORES}", goal["goal_reached"])
    return passed(said, new_memory_bytes_per_second=fresh, used_memory_bytes_per_second=used, cores=cores, loads=loads, **goal)


def checks(_context):
    return [
        Check("load", "how fast is a load?", check_load, 480, ("checkpoints", "start", "worker")),
        Check("upload", "how near is an upload to the best pinned copy?", check_upload, 420, ("update",)),
        Check("other-sender", "how long does checkpoint-engine's own sender take?", check_other_sender, 480, ("update",)),
        Check("load-file", "how long does safetensors take to load to the GPU?", check_load_file, 320, ("checkpoints",)),
    ]
