"""The ways to combine models, as pure functions on tensors; one file each."""
