"""What scripts/gpu-check does: frame.py runs checks, report.py writes down what came out, checks_*.py are the checks."""
