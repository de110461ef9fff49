"""Arithmetic on whole checkpoints: `cpt + 0.8 * (instruct - base)`, with rows matched by token, streamed from disk.

Stands alone: torch, safetensors and the JSON files of a checkpoint are all that it needs.
"""
