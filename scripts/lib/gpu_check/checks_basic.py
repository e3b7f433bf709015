"""What has to be right before an update can be tried: the machine, the programs, the checkpoints, the contract suites.

Not run on a GPU yet.
"""

import os
import subprocess

from checks.frame import Check, Outcome, SKIPPED, Skip, passed, step

CONTRACT_SKIPPED = 77
SHARDS = 8


def check_machine(context):
    devices, python = context.machine["devices"], context.machine["python"]
    if not python.get("torch"):
        raise AssertionError(f"no torch in {context.python} ({python.get('error', 'not installed')}); name another with "
                             "--python")
    if not python["devices"]:
        raise AssertionError(f"torch {python['torch']} sees no GPU, although the driver does: is it a build for the CPU?")
    seen = [each.partition("-")[2] for each in python["devices"]]  # torch tells the digits, also of an instance (MIG-)
    unknown = [device["uuid"] for device in devices if device["uuid"].partition("-")[2] not in seen]
    if unknown:
        raise AssertionError(f"torch does not see {', '.join(unknown)}, or spells it in another way: {python['devices']}")
    names = ", ".join(device["name"] for device in devices)
    return passed(f"{names}; driver {context.machine['driver']} (CUDA {context.machine['cuda_driver']}), torch "
                  f"{python['torch']}", gpus=len(devices), gpu_bytes=devices[0]["bytes"])


def check_programs(context):
    said = {}
    for name in ("ckptd", "ckptctl"):
        done = subprocess.run([os.path.join(context.place.bin_directory, name), "--version"], capture_output=True,
                              text=True, timeout=60)
        if done.returncode != 0:
            raise AssertionError(f"{name} --version ended with {done.returncode}: {done.stderr.strip()}")
        said[name] = done.stdout.strip()
    return passed(f"{said['ckptd']} and {said['ckptctl']} run here", **said)


def check_worker(context):
    """The Python side, for every version of checkpoint-engine that is here."""
    script = "import checkpoint_engine.worker as w, zmq; print(w.update_weights_from_ipc.__name__, zmq.__version__)"
    if not context.machine["python"].get("torch"):
        why = context.machine["python"].get("error", "not installed")
        raise Skip(f"{context.python} has no torch ({why}): name another with --python")
    versions = context.place.worker_versions()
    for version in versions:
        step(f"the worker of checkpoint-engine {version} to be imported")
        done = subprocess.run([context.python, "-B", "-c", script], env=context.python_environment(version),
                              capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            if context.place.is_bundle:
                raise AssertionError(f"checkpoint-engine {version}: {last}")
            raise Skip(f"{context.python} lacks it ({last}): name another with --python, or use a bundle")
    return passed(f"checkpoint_engine.worker can be imported, of {' and '.join(versions)}")


def check_checkpoints(context):
    checkpoints = context.place.import_harness().checkpoints
    first, second = context.checkpoint(1), context.checkpoint(2)
    processes = min(os.cpu_count(), SHARDS)
    step(f"a checkpoint of {context.bytes} bytes to be written to {first}")
    checkpoints.make_llama(first, context.bytes, SHARDS, processes=processes)
    step("a second version of it, every byte another one")
    checkpoints.make_second(first, second, processes=processes)
    about = checkpoints.describe(first)
    return passed(f"two versions of {about['tensors']} tensors are in {context.fast_directory()}", **about)


def check_start(context):
    daemon = context.daemon()
    try:
        step("ckptd to start")
        daemon.start()
        status, about = daemon.http("GET", "/v1/status")
        if status != 200:
            raise AssertionError(f"/v1/status: {status} {about}")
        found = [device["uuid"] for device in about["devices"]]
        if context.uuid not in found:
            raise AssertionError(f"ckptd has {found}, the driver says {context.uuid}")
        warnings = about["warnings"]
        code = daemon.terminate()
        if code != 0:
            raise AssertionError(f"ckptd ended with {code} after SIGTERM")
    finally:
        daemon.close()
        print(daemon.log())
    return passed(f"ckptd serves {', '.join(found)}", devices=len(found), warnings=warnings)


def contract_check(test):
    """One of the C++ contract suites that need a GPU, which ends with 77 where there is none."""

    def run(context):
        step(f"{test['name']} to end")
        done = subprocess.run(test["command"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace")
        print(done.stdout)
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        if done.returncode == CONTRACT_SKIPPED:
            return Outcome(SKIPPED, last)
        if done.returncode != 0:
            raise AssertionError(f"exit status {done.returncode}: {last}")
        return passed(last)

    return Check("contract:" + test["name"], "does the backend keep its contract?", run, float(test["seconds"]))


def checks(context):
    contract = [contract_check(test) for test in context.place.contract]
    if not contract:
        def nothing(_):
            raise Skip("this build has no contract suites for GPUs (CTest's label gpu)")
        contract = [Check("contract", "do the backends keep their contracts?", nothing, 10)]
    host = {"gpu": False}
    return [
        Check("programs", "do the programs run here, with their libraries?", check_programs, 120, **host),
        Check("worker", "can Python import the real worker?", check_worker, 300, **host),
        Check("machine", "do the driver and torch see the same GPUs?", _unless_rehearsal(check_machine), 60),
        *contract,
        Check("checkpoints", "are there two versions to work with?", check_checkpoints, 600, ("programs",),
              counts=False),
        Check("start", "does ckptd find the GPU?", check_start, 120, ("programs",)),
    ]


def _unless_rehearsal(check):
    def run(context):
        context.needs_real_gpu()
        return check(context)
    return run
