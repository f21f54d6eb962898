"""Hold every ranking method, one file a method, and nothing else."""
