"""Build joint identifiers: RQ-VAE, unique assignment, quality metrics."""
