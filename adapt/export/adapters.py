"""The bare adapter for peft, with the tokenizer and the rows that it carries, and the proof that the base takes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError
from adapt.export.source import Source


def write_adapter(source: Source, adapter: Path, folder: Path) -> dict[str, Any]:
    """Copy the files of `adapter` to `folder`, put it on its plain base as a user would, and compare every parameter.

    Returns its size in bytes and the number of its tensors. Raises AdaptError where peft leaves a tensor of it out.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    from adapt.methods.adapter import load_adapter

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(adapter, folder)
    model, _ = load_adapter(folder, source.base)
    saved = load_file(folder / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, tensor in saved.items():
        if name not in loaded or not loaded[name].float().cpu().equal(tensor.to(loaded[name].dtype).float()):
            raise AdaptError(f"'{folder}': peft does not load '{name}' as it was written; nothing else would use it")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"tensors": len(saved), "bytes": size, "base": str(source.base)}
