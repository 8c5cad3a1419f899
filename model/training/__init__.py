"""Training: recipe, run, stages, objectives, checkpoints."""
