"""Joint identifiers: RQ-VAE, unique assignment, quality figures."""
