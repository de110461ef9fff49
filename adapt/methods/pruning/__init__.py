"""Structural pruning of a model in memory, and the way of its updates back to full size."""
