"""Growing a tokenizer and the model under it: new pieces as real merges, and rows to begin training from."""
