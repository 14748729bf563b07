"""State, step, sharding, optimizers, checkpoints, the loop."""
