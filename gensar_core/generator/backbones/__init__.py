"""Load and run the models that generate, one file a family."""
