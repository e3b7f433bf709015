"""How fast it is beside what else this machine can do. These checks have no limits to pass: they fail when something cannot
be measured. Figures go to the table and the JSON file.

Not run on a GPU yet.
"""

import json
import os
import subprocess

from checks.frame import Check, passed, step
from .updates import NAME, figures, serving

ROUNDS = 3
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
    return passed(f"uploads at {rate(best['upload_bytes_per_second'])}, {share:.0%} of the best pinned copy, {rate(limit)}",
                  pinned_bytes_per_second=limit, share_of_pinned=share, **best)


def check_other_sender(context):
    context.needs_real_gpu()
    with serving(context) as both:
        both.load(1)
        ours = min(both.update(1)["seconds"] for _ in range(ROUNDS))
        both.compare(1)
        both.daemon.terminate()  # its arena would be missing to the other
        both.engine.reset()
        step("the ParameterServer of checkpoint-engine to push the same files")
        theirs = program(context, "parameter_server.py", "--port", both.engine.address, "--device", context.uuid,
                         "--rounds", str(ROUNDS), *files_of(context, 1), seconds=400)
        both.compare(1)
    best = min(theirs["update_seconds"])
    return passed(f"a whole update took ckptd {ours:.2f} s and checkpoint-engine's ParameterServer {best:.2f} s, the best "
                  f"of {ROUNDS}", ckptd_seconds=ours, parameter_server_seconds=best, all_of_theirs=theirs)


def check_load_file(context):
    context.needs_real_gpu()
    step("safetensors to load the same files")
    plain = program(context, "rates.py", "load-file", "--device", context.uuid, *files_of(context, 1), seconds=300)
    return passed(f"safetensors.torch.load_file(device=\"cuda\") takes {plain['seconds']:.2f} s, "
                  f"{rate(plain['bytes_per_second'])}", **plain)


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
    return passed(f"from {where}: {rate(fresh)} into new memory, {rate(used)} into memory that was used before",
                  new_memory_bytes_per_second=fresh, used_memory_bytes_per_second=used, loads=loads)


def checks(_context):
    return [
        Check("load", "how fast is a load?", check_load, 480, ("checkpoints", "start", "worker")),
        Check("upload", "how near is an upload to the best pinned copy?", check_upload, 420, ("update",)),
        Check("other-sender", "how long does checkpoint-engine's own sender take?", check_other_sender, 480, ("update",)),
        Check("load-file", "how long does safetensors take to load to the GPU?", check_load_file, 320, ("checkpoints",)),
    ]
