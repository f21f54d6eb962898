"""Share encoders, examples, losses and training between methods."""
