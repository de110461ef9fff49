"""One training stage on several processes: who they are, how they are started, what is said between them."""
