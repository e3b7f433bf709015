"""What scripts/gpu-check and scripts/engine-check share: running named checks, the report, where things are, the machine."""
