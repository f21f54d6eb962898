"""Inspect what the workflow made, and query a trained model: `gensar`."""
