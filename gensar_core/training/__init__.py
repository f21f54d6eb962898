"""Train models: one loop with its state, checkpoints, schedules, threads and processes."""
