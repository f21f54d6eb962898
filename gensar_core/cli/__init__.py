"""`gensar`: look at what the workflow made, and ask a trained model."""
