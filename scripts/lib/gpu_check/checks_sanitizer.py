"""The small contract suites again, under NVIDIA's compute-sanitizer where the machine has it (it comes with the toolkit, not
with the driver). It sees accesses of kernels and copies outside of their memory; the calls that suites expect to be refused
are no errors to it.

Not run on a GPU yet.
"""

import os
import shutil
import subprocess

from .checks_basic import CONTRACT_SKIPPED
from checks.frame import Check, Outcome, SKIPPED, Skip, passed, step

FOUND_ERRORS = 86
# A suite that loses its GPU on purpose is none of them.
SUITES = ("contract_device_gpu", "contract_collective_nccl_gpu")
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


def find_sanitizer():
    homes = [os.path.join(os.environ[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *homes, *PLACES]))


def sanitizer_check(test):
    def run(context):
        context.needs_real_gpu()
        sanitizer = find_sanitizer()
        if not sanitizer:
            raise Skip("there is no compute-sanitizer here: it comes with the CUDA toolkit")
        step(f"{test['name']} to end under compute-sanitizer")
        done = subprocess.run([sanitizer, "--tool", "memcheck", "--report-api-errors", "no", "--target-processes",
                               "application-only", "--error-exitcode", str(FOUND_ERRORS), *test["command"]],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace")
        print(done.stdout)
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        summary = next((line for line in reversed(lines) if "ERROR SUMMARY" in line), None)
        if done.returncode == CONTRACT_SKIPPED:
            return Outcome(SKIPPED, lines[-1] if lines else "it said nothing")
        if done.returncode == FOUND_ERRORS:
            raise AssertionError(f"compute-sanitizer found errors: {summary}")
        if summary is None:
            raise Skip(f"compute-sanitizer does not run here: {lines[-1] if lines else 'it said nothing'}")
        if done.returncode != 0:
            raise AssertionError(f"exit status {done.returncode} under compute-sanitizer, which found no error: {summary}")
        return passed(summary.lstrip("= "))

    return Check("sanitizer:" + test["name"], "does compute-sanitizer find nothing?", run, 3 * float(test["seconds"]),
                 ("contract:" + test["name"],))


def checks(context):
    return [sanitizer_check(test) for test in context.place.contract if test["name"] in SUITES]
