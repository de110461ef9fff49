"""Low-rank updates: their start, their restart, their rank, and what they come to in the end."""
