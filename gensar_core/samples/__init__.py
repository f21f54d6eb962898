"""Turn canonical tables into targets, splits, histories and candidates, and audit them for leaks."""
