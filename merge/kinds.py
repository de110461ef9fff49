"""What a tensor does in a transformer, read from its name: attention, mlp, norms, embeddings."""

from __future__ import annotations

import re

KINDS = ("embeddings", "attention", "mlp", "norms", "other")
"""The kinds, in the order in which they are shown."""
_PATTERNS = {
    "norms": re.compile(r"(?:^|[._])(?:ln|norm|layernorm)(?:$|[._\d])|norm\d*$|(?:^|\.)ln_\w+$", re.IGNORECASE),
    "embeddings": re.compile(r"(?:^|\.)(?:\w*embed\w*|wte|wpe|lm_head)$"),
    "attention": re.compile(r"(?:^|\.)\w*att(?:n|ention)\w*(?:\.|$)"),
    "mlp": re.compile(
        r"(?:^|\.)(?:\w*mlp\w*|feed_forward|ffn|experts?|shared_expert\w*|fc[12]|block_sparse_moe)(?:\.|$)"
    ),
}
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)$")


def kind_of(name: str) -> str:
    """The kind of a tensor by its name: `model.layers.3.self_attn.q_norm.weight` is of the kind norms.

    The head counts as an embedding, the norms inside of attention as norms. A name that tells nothing is `other`.
    """
    module = re.sub(r"\.(?:weight|bias)$", "", name)
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.search(module)), "other")


def is_head(name: str) -> bool:
    """Whether a tensor is the output embedding or its bias."""
    return bool(_HEAD.search(re.sub(r"\.(?:weight|bias)$", "", name)))
