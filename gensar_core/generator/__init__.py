"""Build and train the T5 generator, and rank candidates with it exactly."""
