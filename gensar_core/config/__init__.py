"""Validate config.yaml and give it types: one file per stage, and the experiments that hold them."""
