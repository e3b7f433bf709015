"""Whether a rank can open the offered memory from behind the borders that containers put up. What CUDA does there is not
written down reliably anywhere, so each of these checks answers a question: it passes when the answer is clear, yes or no,
and nobody is left waiting; the sentence says which. A "no" tells an operator what a container must share.

Not run on a GPU yet.
"""

import os
import shutil
import subprocess

from checks.frame import Check, Skip, passed, step
from .updates import NAME, serving

NOBODY = 65534


def ask(context, border, before, config=None):
    with serving(context, config=config, before=before) as both:
        os.chmod(both.daemon.runtime_dir, 0o755)  # the sockets are below it: what an operator has to do as well
        both.load(1)
        step(f"an update into a rank {border}")
        answer = both.daemon.ctl("update", f"{NAME}@1", seconds=both.patience())
        if answer.code == 0:
            held = both.compare(1)
            return passed(f"yes: a rank {border} opened the arena, and all {held['tensors']} tensors are equal",
                          opens=True)
        error = answer.error
        step("the refused rank to be released")
        both.engine.wait_idle(60)
        both.harness.wait_until("ckptd to go on", lambda: both.daemon.http("GET", "/healthz")[0] == 200, 10)
        if context.uuid not in error.get("sentence", ""):
            raise AssertionError(f"refused, and the error does not name the rank: {error}")
        said = (error.get("vendor") or "").strip().splitlines()
        return passed(f"no: a rank {border} does not get the arena: {error['sentence']}", opens=False,
                      kind=error.get("kind", ""), worker_said=said[-1] if said else "")


def check_namespaces(context):
    if not shutil.which("unshare"):
        raise Skip("there is no unshare(1)")
    before = ["unshare", "--pid", "--ipc", "--fork", "--kill-child"]
    if subprocess.run([*before, "true"], capture_output=True, timeout=30).returncode != 0:
        raise Skip("unshare(1) may not make PID and IPC namespaces here")
    return ask(context, "in PID and IPC namespaces of its own", " ".join(before))


def check_other_uid(context):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        raise Skip("it needs root and setpriv(1)")
    before = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"
    for what in (["-c", "import torch, checkpoint_engine.worker"], [*context.rank_program(), "--help"]):
        probe = subprocess.run([*before.split(), context.python, "-B", *what], env=context.python_environment(), cwd="/",
                               capture_output=True, text=True, timeout=120)
        if probe.returncode != 0:
            last = (probe.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise Skip(f"uid {NOBODY} may not use what the rank needs (unpack the bundle where everybody may read): {last}")
    return ask(context, f"of uid {NOBODY}", before, {"": {"rank_group": str(NOBODY)}})


def checks(_context):
    return [
        Check("namespaces", "may a rank have its own PID and IPC namespaces?", check_namespaces, 300, ("update",)),
        Check("other-uid", "may a rank have another uid?", check_other_uid, 300, ("update",)),
    ]
