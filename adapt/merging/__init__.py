"""What a merge needs a running model for: the search for coefficients."""
