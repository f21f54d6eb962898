"""Item (and query) vectors: from text encoders, and out of trained sequential models."""
