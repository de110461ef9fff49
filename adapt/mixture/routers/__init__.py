"""Ways to weigh adapters at a token, by name. A new one is a file here and a line in the table."""
