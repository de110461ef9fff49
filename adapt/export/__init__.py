"""Finished models for other programs, each with a proof: safetensors, the bare adapter, GGUF."""
