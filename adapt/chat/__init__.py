"""A conversation with a model: its chat form, its answers piece by piece, and the words that steer it."""
