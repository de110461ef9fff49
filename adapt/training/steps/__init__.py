"""Optimisers of torch's kind that no library offers with a state of plain tensors."""
