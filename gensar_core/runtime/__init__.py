"""Devices, seeds, atomic outputs, stage records, progress, logs and the shared training loop."""
