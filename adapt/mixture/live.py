"""Whatever computes logits from a folder: a plain model, an adapter over its base, a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer


def load_live(location: ModelLocation, dtype: Any = "auto") -> tuple[Any, Any]:
    """A model as it computes, in evaluation mode, and its tokenizer. Raises AdaptError where there is none."""
    from adapt.mixture.folder import is_mixture, load_mixture

    folder = Path(location.path)
    if is_mixture(folder):
        return load_mixture(folder, dtype=dtype)
    if (folder / "adapter_config.json").exists() or (folder / "embedding_rows.safetensors").exists():
        from adapt.methods.adapter import load_adapter

        return load_adapter(folder, dtype=dtype)
    if (folder / "bottleneck_config.json").exists():
        from adapt.mixture.domain_adapter_loading import load_domain_adapter

        return load_domain_adapter(folder, dtype=dtype)
    return load_model(location, dtype).eval(), load_tokenizer(location)
