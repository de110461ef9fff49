"""An adapter that carries its vocabulary: saved beside peft's files, and put on the plain base again.

An adapter trained on a grown model is useless without the rows of the new pieces and without the tokenizer that makes
them. Its folder therefore holds

    adapter_model.safetensors, adapter_config.json    peft's own, none where only rows trained
    embedding_rows.safetensors                        `ids [n]` and, per embedding, its rows `[n, width]` in float32
    tokenizer.json and its kin                        the grown tokenizer, with the new pieces as merges
    adapt_vocabulary.json                             the new pieces, their merges, what they are made of

The rows are those that trained and those that the plain base lacks. The header of their file names the base that they
were trained over and digests its other rows and its blocks, so that an adapter is not put on a model that it does not
fit. Digests are of values in bf16: a base is the same in whatever format it is loaded.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer, read_json, save_noted
from adapt.errors import AdaptError
from adapt.methods.base import plain_model
from adapt.training.rows import VOCABULARY_FILE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.methods.base import Trained

ROWS_FILE = "embedding_rows.safetensors"
_AT_ONCE = 4096
"""Rows that are digested at a time."""
_VALUES = 256
"""About as many values of each weight of the blocks are digested."""


def digest_rows(weight: torch.Tensor, without: torch.Tensor) -> str:
    """BLAKE2 of a matrix `[V, d]` without some rows."""
    import torch

    kept = torch.ones(weight.shape[0], dtype=torch.bool)
    kept[without] = False
    value = hashlib.blake2b(digest_size=16)
    for ids in kept.nonzero().flatten().split(_AT_ONCE):
        value.update(_bytes(weight.detach()[ids.to(weight.device)]))
    return value.hexdigest()


def digest_blocks(weights: Mapping[str, torch.Tensor], embeddings: Collection[str]) -> str:
    """BLAKE2 of names and of some values, evenly spread, of every weight that is not an embedding."""
    value = hashlib.blake2b(digest_size=16)
    for name in sorted(weights.keys() - set(embeddings)):
        flat = weights[name].detach().flatten()
        value.update(name.encode() + _bytes(flat[:: max(1, len(flat) // _VALUES)]))
    return value.hexdigest()


def _bytes(values: torch.Tensor) -> bytes:
    import torch

    return values.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()


def _lacking(location: ModelLocation, height: int) -> set[int]:
    """Rows that a plain base lacks: those of new pieces, and padding of the matrix behind them."""
    file = location.folder / VOCABULARY_FILE if location.folder else None
    new = {int(row) for row in read_json(file)["new_ids"]} if file and file.exists() else set()
    return new | set(range(max(new) + 1, height)) if new else new


def save_vocabulary(trained: Trained, base: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write rows and tokenizer beside an adapter. `base` are the weights of the base, in any format, by their names.

    Nothing is written, and no weight of the base is asked for, where it was never grown and no row trained.
    """
    import torch

    rows = trained.rows.tensors()
    changed = rows.pop("ids", torch.tensor([], dtype=torch.long))
    height = plain_model(trained.model).get_input_embeddings().weight.shape[0]
    ids = torch.tensor(sorted({*changed.tolist(), *_lacking(trained.location, height)}), dtype=torch.long)
    if not len(ids):
        return
    folder.mkdir(parents=True, exist_ok=True)
    names, place = trained.rows.names, torch.searchsorted(ids, changed)
    biases = [f"{name.removesuffix('weight')}bias" for name in names]
    tensors = {name: base[name][ids].float().contiguous() for name in (*names, *biases) if name in base}
    for name, values in rows.items():
        tensors[name][place] = values
    metadata = {"base": trained.location.path} | {f"others of {name}": digest_rows(base[name], ids) for name in names}
    metadata["blocks"] = digest_blocks(base, (*names, *trained.rows.again, *biases))
    save_noted({"ids": ids} | tensors, folder / ROWS_FILE, metadata)
    trained.tokenizer.save_pretrained(folder)
    source = trained.location.folder
    if source is not None and (source / VOCABULARY_FILE).exists():
        shutil.copyfile(source / VOCABULARY_FILE, folder / VOCABULARY_FILE)


def with_rows_file(record: dict[str, Any], adapter: Path, name: str) -> dict[str, Any]:
    """A merge's record in which the rows that the adapter `name` carries are among its inputs."""
    from merge.verification import file_hash

    if not (adapter / ROWS_FILE).exists():
        return record
    files = {"files": {ROWS_FILE: file_hash(adapter / ROWS_FILE)}}
    return record | {"inputs": record["inputs"] | {name: record["inputs"][name] | files}}


def _read_rows(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(folder / ROWS_FILE, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def grow_for_adapter(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Give a plain base the embedding rows that an adapter carries, in place; peft's own loading works afterwards.

        model = adapt.grow_for_adapter(AutoModelForCausalLM.from_pretrained(base), folder)
        model = PeftModel.from_pretrained(model, folder)

    A base that is grown already only takes over the values. Raises AdaptError where the base is another one than that
    which the adapter was trained over: too few rows, other rows, tied otherwise.
    """
    import torch

    folder = Path(folder)
    if not (folder / ROWS_FILE).exists():
        return model
    tensors, metadata = _read_rows(folder)
    ids = tensors.pop("ids")
    height = model.get_input_embeddings().weight.shape[0]
    missing = set(range(height, int(ids.max()) + 1)) - set(ids.tolist())
    if missing:
        raise AdaptError(
            f"the base has {height} embedding rows, and the adapter in '{folder}' carries no row {min(missing)}; "
            "give the base that it was trained over"
        )
    if int(ids.max()) >= height:
        model.resize_token_embeddings(int(ids.max()) + 1, mean_resizing=False)
    weights = dict(model.named_parameters(remove_duplicate=False))
    _check_base(model, weights, ids, tensors, metadata, folder)
    with torch.no_grad():
        for name, rows in tensors.items():
            weights[name][ids.to(weights[name].device)] = rows.to(weights[name])
    return model


def _check_base(
    model: PreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    ids: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    folder: Path,
) -> None:
    own = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    carried = [name for name in tensors if name.endswith("weight")]
    found = sorted(id(weights.get(name)) for name in carried)
    if sorted(own) != found or any(name not in weights for name in tensors):
        raise AdaptError(
            f"the adapter in '{folder}' carries rows of {sorted(tensors)}, which are not the embeddings of this base; "
            f"it was trained over '{metadata.get('base')}'"
        )
    differing = [name for name in carried if digest_rows(weights[name], ids) != metadata.get(f"others of {name}")]
    embeddings = [name for name in weights if id(weights[name]) in own] + list(tensors)
    quantised = any(hasattr(weight, "quant_state") for weight in weights.values())
    if not differing and not quantised and digest_blocks(weights, embeddings) != metadata.get("blocks"):
        differing = ["blocks"]
    if differing:
        raise AdaptError(
            f"the adapter in '{folder}' was trained over another base than this: its '{differing[0]}' is not that "
            f"of '{metadata.get('base')}'; give that base, or the model that it was grown from"
        )


def _check_tokenizer(base: PreTrainedTokenizerBase, grown: PreTrainedTokenizerBase, folder: Path) -> None:
    new = grown.get_vocab()
    for token, index in base.get_vocab().items():
        if new.get(token) != index:
            raise AdaptError(
                f"the tokenizer in '{folder}' is not grown from the base's: '{token}' has id {new.get(token)} there "
                f"and {index} in the base"
            )


def base_of(folder: Path) -> str:
    """The model that an adapter's folder says it was trained over."""
    if (folder / ROWS_FILE).exists():
        return _read_rows(folder)[1]["base"]
    return read_json(folder / "adapter_config.json")["base_model_name_or_path"]


def load_adapter(
    folder: str | Path, base: str | Path | None = None, dtype: torch.dtype | str = "auto", **arguments: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model with an adapter on it, and its tokenizer, from the adapter's folder and the plain base.

    `base` is the model that the adapter's vocabulary was grown from, or the grown one (empty: the one that it was
    trained over); anything that transformers loads. The base is grown where it has to be. `dtype` ("auto": the stored
    format) and other arguments go to transformers. The model is peft's, or a plain one where only rows trained. Raises
    AdaptError where base and adapter do not belong together.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").exists() and not (folder / ROWS_FILE).exists():
        raise AdaptError(f"'{folder}' holds no adapter (no adapter_config.json and no {ROWS_FILE})")
    location = ModelLocation(str(base) if base is not None else base_of(folder))
    tokenizer = load_tokenizer(location)
    model = load_model(location, "auto", **arguments)
    if (folder / ROWS_FILE).exists():
        grown = load_tokenizer(ModelLocation(str(folder)))
        _check_tokenizer(tokenizer, grown, folder)
        model, tokenizer = grow_for_adapter(model, folder), grown
    if dtype != "auto":
        model = model.to(dtype)
    if (folder / "adapter_config.json").exists():
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, folder)
        except (RuntimeError, ValueError) as error:
            raise AdaptError(
                f"the adapter in '{folder}' does not fit the base '{location.path}'; give the base that it was "
                f"trained over ({str(error).splitlines()[-1].strip()})"
            ) from error
    return model.eval(), tokenizer
