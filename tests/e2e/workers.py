"""The worker of checkpoint-engine in the versions that stand for its dialects, as engines of ranks.

scripts/test unpacks them beside the virtual environment (scripts/lib/setup.sh); CKPTD_TEST_WORKERS names another folder, one
subfolder a version. Without them, and with RANKS=reference, the reference rank speaks the dialects.
"""

import os
import shlex
import unittest

import harness

# Dialect: the version that stands for it.
VERSIONS = {"A": "0.1.2", "B": "0.2.1", "C": "0.3.4", "D": "0.4.2"}


def folder():
    named = os.environ.get("CKPTD_TEST_WORKERS")
    return named or os.path.join(os.path.dirname(os.path.dirname(harness.test_python())), "workers")


def rank_command(dialect, sessions=1):
    """What plays a rank of this dialect; skips the test where the real worker is not there."""
    if harness.RANKS != "torch":
        return f"{shlex.quote(harness.REFERENCE_RANK)} --dialect {dialect} --sessions {sessions}"
    package = os.path.join(folder(), VERSIONS[dialect])
    if not os.path.isdir(os.path.join(package, "checkpoint_engine")):
        raise unittest.SkipTest(f"checkpoint-engine {VERSIONS[dialect]} is not in {folder()} (see scripts/test)")
    torch_rank = os.path.join(harness.SUPPORT, "torch_rank.py")
    return shlex.join([harness.test_python(), torch_rank, "--package", package, "--sessions", str(sessions)])
