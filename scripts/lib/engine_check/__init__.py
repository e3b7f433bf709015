"""What scripts/engine-check does: servers.py starts a server and asks it for greedy output, beside.py puts ckptd beside it,
flows.py are the checks. What runs and reports checks is in the folder checks beside this.

Not run against a live server.
"""
