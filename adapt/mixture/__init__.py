"""Mixtures of adapters: several adapters beside one frozen model, and gates that weigh them for each token."""
