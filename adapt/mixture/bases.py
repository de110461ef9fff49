"""The model that a mixture stands on: what identifies it, and whether an adapter was trained over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, local_folder
from adapt.errors import AdaptError
from adapt.methods.adapter import ROWS_FILE, digest_blocks

if TYPE_CHECKING:
    import torch

_EMBEDDINGS = ("lm_head", "embed_tokens", "wte", "wpe", "embed_out", "embed_in", "word_embeddings")


@dataclass(frozen=True)
class Base:
    """Where the base lies, and a digest of its blocks: names and some values of every weight, in bf16."""

    path: str
    revision: str | None
    digest: str

    @classmethod
    def of(cls, location: ModelLocation) -> Base:
        """The base at a place. Raises AdaptError where it cannot be read."""
        return cls(location.path, location.revision, blocks_digest(local_folder(location)))

    @property
    def location(self) -> ModelLocation:
        """Where transformers loads it from."""
        return ModelLocation(self.path, self.revision)

    def asdict(self) -> dict[str, Any]:
        """For a mixture's file."""
        return asdict(self)


def blocks_digest(folder: Path) -> str:
    """The digest of the weights in a folder's safetensors files that are no embeddings.

    The same for a model and the same model with a grown vocabulary.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise AdaptError(f"'{folder}' holds no safetensors files, so a mixture cannot tell which base it is")
    weights = _Weights(files)
    return digest_blocks(weights, [name for name in weights if _is_embedding(name)])


class _Weights(Mapping[str, "torch.Tensor"]):
    """The tensors of some files, each read when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self._file: dict[str, Any] = {}
        for path in files:
            try:
                file = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise AdaptError(f"cannot read the base's '{path}': {error}") from error
            self._file |= dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def _is_embedding(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[-2] in _EMBEDDINGS


def check_base(name: str, folder: Path, config: Mapping[str, Any], base: Base) -> None:
    """Raise AdaptError for an adapter that was trained over another model."""
    named = config.get("base_model_name_or_path")
    if not named or str(named) == base.path:
        return
    location = ModelLocation(str(named), config.get("revision"))
    if location.folder is None:
        raise AdaptError(
            f"adapter '{name}' was trained over '{named}', which is not here to be compared with '{base.path}'; "
            f"if they are the same model, put '{base.path}' as base_model_name_or_path into "
            f"'{folder / 'adapter_config.json'}'"
        )
    if blocks_digest(location.folder) != base.digest:
        raise AdaptError(
            f"adapter '{name}' was trained over another base: the weights of '{named}' are not those of '{base.path}'"
        )


def check_vocabulary(name: str, folder: Path, model: Any, tokenizer: Any) -> None:
    """Raise AdaptError for an adapter with a vocabulary or embedding rows of its own."""
    from adapt.checkpoints import load_tokenizer

    if tokenizer is not None and (folder / "tokenizer.json").is_file():
        own, common = load_tokenizer(ModelLocation(str(folder))).get_vocab(), tokenizer.get_vocab()
        if own != common:
            token = sorted(own.items() ^ common.items(), key=lambda item: (item[1], item[0]))[0][0]
            raise AdaptError(
                f"adapter '{name}' was trained on another vocabulary: '{token}' has id {own.get(token, 'none')} there "
                f"and {common.get(token, 'none')} in the base; a mixture has one vocabulary, so grow the base first"
            )
    if (folder / ROWS_FILE).is_file():
        _check_rows(name, folder, model)


def _check_rows(name: str, folder: Path, model: Any) -> None:
    import torch
    from safetensors.torch import load_file

    tensors, weights = load_file(folder / ROWS_FILE), dict(model.named_parameters(remove_duplicate=False))
    ids = tensors.pop("ids")
    for weight, rows in tensors.items():
        own = weights.get(weight)
        fits = own is not None and int(ids.max()) < len(own)
        if not fits or not torch.equal(
            own.detach()[ids.to(own.device)].cpu().to(rows.dtype), rows.to(own.dtype).float()
        ):
            raise AdaptError(
                f"adapter '{name}' was trained on another vocabulary: it carries rows of '{weight}' that the base "
                "does not have; a mixture has one table of embeddings, train it over the grown base, with these frozen"
            )
