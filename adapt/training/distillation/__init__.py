"""Learning from another model's probabilities: the teacher, the loss, the trainer, held-out text."""
