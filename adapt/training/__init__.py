"""Training: TRL's trainer with our schedules, checkpoints that survive a kill, and the rules checked in the run."""
