"""The soak: ckptd and several engines for hours, with everything going wrong that goes wrong in a rack.

Each step is rolled from the seed and its number alone (plan.py), so that a step that failed is met again by running the
same seed up to it. What can happen to an engine is a table (engine_faults.py), what to the daemon another
(daemon_faults.py), what operators do meanwhile a third (bystanders.py), and what they do between two updates a fourth
(orders.py); which engines there are is a table of world.py.
What must hold after each step, whatever happened in it, is in invariants.py and leaks.py. run.py goes step by step.
"""
