"""The T5 generator: backbone, training, exact candidate ranking."""
