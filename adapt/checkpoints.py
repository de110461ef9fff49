"""Plain checkpoints: where a model lies, how it is loaded, how it is written, and the proof that it loads again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# else bitsandbytes says whenever it is imported that an optional kernel, which it would download, is not there
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True)
class ModelLocation:
    """Anything that transformers loads: a folder, or the id of a hub repository with a revision."""

    path: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a hub id."""
        return Path(self.path) if Path(self.path).is_dir() else None


def local_folder(location: ModelLocation) -> Path:
    """The folder of a model; a hub id is looked up among what is on the disk, or downloaded."""
    if location.folder is not None:
        return location.folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(location.path, revision=location.revision, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError, ValueError) as error:
        raise AdaptError(f"cannot get the model '{location.path}': {str(error).strip().splitlines()[0]}") from error


def _hub_arguments(location: ModelLocation) -> dict[str, Any]:
    return {"revision": location.revision, "trust_remote_code": location.trust_remote_code}


def _readable(location: ModelLocation, what: str, error: Exception) -> AdaptError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return AdaptError(f"cannot load the {what} of '{location.path}': {reason}")


def _quiet() -> None:
    """Loading and writing show no bars of their own; `adapt.display` shows what there is to see."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def load_config(location: ModelLocation) -> Any:
    """The model's configuration. Raises AdaptError where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(location.path, **_hub_arguments(location))
    except (OSError, ValueError, KeyError) as error:
        raise _readable(location, "configuration", error) from error


def load_tokenizer(location: ModelLocation) -> PreTrainedTokenizerBase:
    """The model's fast tokenizer. Raises AdaptError where there is none."""
    from transformers import AutoTokenizer

    _quiet()
    try:
        return AutoTokenizer.from_pretrained(location.path, **_hub_arguments(location))
    except (OSError, ValueError, KeyError) as error:
        raise _readable(location, "tokenizer", error) from error


def load_model(location: ModelLocation, dtype: torch.dtype | str = "auto", **arguments: Any) -> PreTrainedModel:
    """The causal language model from safetensors, in `dtype` (`"auto"`: the stored one).

    Raises AdaptError where there is no such model, where it holds pickled weights only, or where tensors are missing.
    """
    from transformers import AutoModelForCausalLM

    _quiet()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            location.path,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **_hub_arguments(location),
            **arguments,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _readable(location, "model", error) from error
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise AdaptError(f"'{location.path}' lacks {len(missing)} tensors, the first is '{missing[0]}'")
    return model


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a checkpoint that plain transformers loads: safetensors, configurations, tokenizer, chat template."""
    _quiet()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def save_noted(tensors: Mapping[str, torch.Tensor], path: Path, notes: Mapping[str, str]) -> None:
    """Write a safetensors file with several notes in its metadata, the same bytes each time.

    The library writes them in an order that it draws anew in every process.
    """
    from safetensors.torch import save

    content = save(dict(tensors), metadata=dict(notes))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end]) | {"__metadata__": dict(sorted(notes.items()))}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text = text.ljust(-(-len(text) // 8) * 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def probe_ids(vocabulary_size: int, length: int = 48, seed: int = 0) -> torch.Tensor:
    """Token ids `[2, length]`, drawn over the whole vocabulary, on which two copies of a model are compared."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary_size, (2, length), generator=generator)


def verify_checkpoint(folder: Path, expected: torch.Tensor, ids: torch.Tensor, tolerance: float = 2e-3) -> float:
    """Load `folder` with plain transformers and compare its logits on `ids` with `expected`, both in float32.

    Returns the largest absolute difference. Raises AdaptError above `tolerance` times the largest expected logit, so
    that nothing is kept that would not behave as it did in memory (design rule 10).
    """
    import torch

    model = load_model(ModelLocation(str(folder)), dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    width = min(logits.shape[-1], expected.shape[-1])
    difference = float((logits[..., :width] - expected[..., :width]).abs().max())
    limit = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= limit:
        raise AdaptError(
            f"the checkpoint written to '{folder}' does not load back as it was: "
            f"logits differ by {difference:.3g} (allowed {limit:.3g})"
        )
    return difference


def read_json(path: Path) -> Any:
    """A JSON file. Raises AdaptError with the path where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdaptError(f"cannot read '{path}': {error}") from error
