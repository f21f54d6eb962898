"""Load and run generative models, one file per family."""
