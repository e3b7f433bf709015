"""How ranks in Python sleep when a test has told them to. tests/support/reference_rank does the same."""

import contextlib
import os
import time


def sleep_until_open(seconds, gate, device):
    """At most so long. With a gate, the path of a file: makes GATE.DEVICE first, which says that it sleeps, and ends once
    GATE is there. One of another user may not be allowed to say it; it sleeps all the same."""
    if gate:
        with contextlib.suppress(OSError), open(f"{gate}.{device}", "w", encoding="ascii"):
            pass
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (gate and os.path.exists(gate)):
        time.sleep(max(min(0.02, until - time.monotonic()), 0))
