"""Learning from pairs of answers: log-probabilities, the reference, TRL's trainers for them, held-out pairs."""
