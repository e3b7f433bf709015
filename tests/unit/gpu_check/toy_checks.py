"""Checks that do on purpose what real ones should not: toy_checks.py FOLDER WITHIN GPU NAME...

Leaves logs, process ids (NAME.pid) and result.json in FOLDER; ends with the status that gpu-check would have.
"""

import os
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

from checks import frame, report  # noqa: E402
from checks.frame import Check, Skip, passed, step  # noqa: E402

FOLDER = sys.argv[1]
SOON = max(3.0, float(os.environ.get("CKPTD_TEST_PATIENCE") or 1))  # what a check that hangs is given, in seconds


def note_pid(name, pid):
    making = os.path.join(FOLDER, name + ".making")
    with open(making, "w", encoding="ascii") as file:
        file.write(str(pid))
    os.replace(making, os.path.join(FOLDER, name + ".pid"))


def good(_):
    return passed("all is well", bytes=7)


def bad(_):
    raise AssertionError("the moon is missing\nand more that is for the log")


def skips(_):
    raise Skip("there is no moon")


def hangs(_):
    note_pid("hangs", os.getpid())
    step("the rank to answer")
    try:
        time.sleep(100)
    finally:
        open(os.path.join(FOLDER, "cleaned-up"), "w").close()


def hangs_for_good(_):
    note_pid("hangs_for_good", os.getpid())
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    step("the rank to answer")
    time.sleep(100)


def hangs_with_child(_):
    note_pid("hangs_with_child", subprocess.Popen(["sleep", "1000"]).pid)
    step("the rank to answer")
    time.sleep(100)


def dies(_):
    step("the end")
    os.kill(os.getpid(), signal.SIGKILL)


def litters(_):
    """A child, and one whose parent and session are gone."""
    note_pid("litters", subprocess.Popen(["sleep", "1000"]).pid)
    script = 'setsid sleep 1000 >/dev/null 2>&1 & echo $!'
    note_pid("litters_detached", int(subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout))
    return passed("and leaves things behind")


class EndsItself:
    """A stderr that is flushed at the very moment at which the parent asks for the end."""

    def write(self, text):
        pass

    def flush(self):
        os.kill(os.getpid(), signal.SIGTERM)


def asked_while_leaving(_):
    sys.stderr = EndsItself()
    return passed("goodbye")


def slow(_):
    note_pid("slow", os.getpid())
    time.sleep(60)
    return passed("at last")


CHECKS = [
    Check("good", "?", good, 20), Check("bad", "?", bad, 20), Check("skips", "?", skips, 20),
    Check("needs_bad", "?", good, 20, ("bad",)), Check("needs_needs_bad", "?", good, 20, ("needs_bad",)),
    Check("hangs", "?", hangs, SOON), Check("hangs_for_good", "?", hangs_for_good, SOON),
    Check("hangs_with_child", "?", hangs_with_child, SOON), Check("dies", "?", dies, 20), Check("litters", "?", litters, 20),
    Check("for_host", "?", good, 20, gpu=False), Check("bad_for_host", "?", bad, 20, gpu=False),
    Check("prepares", "?", good, 20, counts=False), Check("slow", "?", slow, 100),
    Check("asked_while_leaving", "?", asked_while_leaving, 20),
]


class Context:
    def __init__(self, gpu):
        self._gpu = gpu

    def why_not(self, check):
        return "it needs a GPU: there is none" if check.gpu and not self._gpu else ""

    def told_to_start(self, check):
        pass


def main():
    within, gpu, names = float(sys.argv[2]), sys.argv[3] == "1", sys.argv[4:]
    checks = [check for check in CHECKS if check.name in names]
    result = os.path.join(FOLDER, "result.json")
    frame.GRACE_SECONDS = 4.0

    def tell(_check, _outcome, results):
        report.write(result, report.document(checks, results, {}, False))

    itself = os.getpid()
    try:
        results = frame.run_all(checks, Context(gpu), FOLDER, tell, within or None)
    finally:  # where gpu-check removes what all its checks work with
        if os.getpid() != itself:
            note_pid("escaped", os.getpid())
    status = report.exit_status(checks, results)
    report.write(result, report.document(checks, results, {}, False, status))
    print(report.table(checks, results))
    return status


if __name__ == "__main__":
    sys.exit(main())
