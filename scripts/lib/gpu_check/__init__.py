"""What scripts/gpu-check does: checks_*.py are its checks; what runs and reports them is in the folder checks beside this."""
