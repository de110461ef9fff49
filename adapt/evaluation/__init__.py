"""What a model can do: bits per byte, tasks with exact match, and comparison with its own base."""
