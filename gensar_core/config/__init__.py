"""Check config.yaml and give it types: one file a stage, and the experiments that hold them."""
