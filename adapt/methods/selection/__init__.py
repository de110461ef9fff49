"""Which whole tensors of a model train, and when: the mechanism that half, freeze, lisa, spectrum and others share."""
