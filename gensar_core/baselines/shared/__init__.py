"""Share encoders, training examples, losses and training across methods."""
