"""A good recipe, which the tests break, and the lines that a user then sees."""

from __future__ import annotations

from adapt.errors import RecipeError
from adapt.recipe import load_text

GOOD = """\
name: tiny
seed: 17
models:
  base: models/base
  instruct: {path: models/instruct}
data:
  target: {files: target.txt}
  general:
    files: general.jsonl
    field: text
  asked: {files: asked.jsonl}
stages:
  grown:
    kind: expand_vocabulary
    model: base
    corpus: target
    add: 200
    init: mean_of_pieces
  cpt:
    kind: train
    model: grown
    objective: causal_lm
    mixture: {target: 80%, general: 0.2}
    method: {kind: lora, r: 8, train_embeddings: new_rows}
    schedule: {kind: rewarm_cosine, peak: 1e-3, warmup: 5%}
    tokens: 20k
    sequence_length: 64
  scores:
    kind: evaluate
    models: [base, instruct, cpt]
    suites:
      text: {kind: bits_per_byte, source: target}
      questions: {kind: exact_match, source: asked}
    forgetting: general
"""


def problems(text: str, *overrides: str) -> list[str]:
    """The lines that a user sees."""
    try:
        load_text(text, "r.yaml", overrides)
    except RecipeError as error:
        return str(error).splitlines()
    return []
