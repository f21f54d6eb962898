"""Run stages: whole outputs and their records, fingerprints, seeds, devices, arrays, progress and logs."""
