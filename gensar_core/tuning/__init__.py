"""Search settings by validation: `gensar tune`."""
