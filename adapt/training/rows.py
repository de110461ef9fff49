"""Which rows of the embeddings train, and that no other row moves.

The weight trains in float32 as a whole; a hook on its gradient sets the rows that are held to zero. Under Adam a row
whose gradients were always zero has zero moments, its step is `0 / (0 + eps) = 0`, and without weight decay it stays
bit for bit what it was. Special and chat tokens that never occur in the text would otherwise move as fast as any other
row: they receive the softmax's gradient in every step, and Adam divides by its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapt.checkpoints import ModelLocation, read_json
from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


HoldRows = Literal["special", "none"]
TrainEmbeddings = Literal["frozen", "new_rows", "chat_rows", "whole"]
VOCABULARY_FILE = "adapt_vocabulary.json"


def special_rows(tokenizer: PreTrainedTokenizerBase, height: int) -> set[int]:
    """Ids of special, added and chat tokens, and of rows that belong to no token at all (padding of the matrix)."""
    known = set(tokenizer.get_vocab().values())
    unknown = {row for row in range(height) if row not in known}
    return unknown | set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)


def new_rows(location: ModelLocation) -> list[int]:
    """Ids of the pieces that `expand_vocabulary` added to a model. Raises AdaptError where it has none."""
    file = location.folder / VOCABULARY_FILE if location.folder else None
    if file is None or not file.exists():
        raise AdaptError(
            f"'{location.path}' has no new rows to train (it holds no {VOCABULARY_FILE}); put a stage of kind "
            "'expand_vocabulary' before this one, or set train_embeddings to 'frozen' or 'whole'"
        )
    return [int(row) for row in read_json(file)["new_ids"]]


def chat_rows(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the special and added tokens that the chat template writes around a question and its answer."""
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    written = tokenizer.apply_chat_template(turns, return_dict=False)
    return sorted(set(written) & set(tokenizer.added_tokens_decoder))


@dataclass
class EmbeddingRows:
    """The rows of a model's input and output embedding that train.

    `names` are the parameters' names in the plain model: one where the two are tied, two otherwise, none where the
    embeddings are frozen. `free` are the rows that may move, `None` for all.
    """

    names: tuple[str, ...]
    parameters: tuple[torch.nn.Parameter, ...]
    free: torch.Tensor | None
    tied: bool

    def held(self) -> Iterator[tuple[str, torch.Tensor]]:
        """For each embedding its name and the rows that must not move, `[rows, width]`."""
        if self.free is None:
            return
        for name, parameter in zip(self.names, self.parameters, strict=True):
            yield name, parameter.detach()[~self._mask(parameter)]

    def _mask(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        import torch

        mask = torch.zeros(parameter.shape[0], dtype=torch.bool, device=parameter.device)
        mask[self.free.to(parameter.device)] = True
        return mask

    def tensors(self) -> dict[str, torch.Tensor]:
        """What trained, for an adapter's folder: `ids [n]`, and `<parameter>` `[n, width]` in float32."""
        import torch

        if not self.names:
            return {}
        ids = self.free if self.free is not None else torch.arange(self.parameters[0].shape[0])
        pairs = zip(self.names, self.parameters, strict=True)
        return {"ids": ids} | {name: parameter.detach().float().cpu()[ids] for name, parameter in pairs}


def embedding_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The weights of input and output embedding by name; one entry where they are tied.

    Tying is read off the model itself: the two are tied when they are one parameter.
    """
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [module.weight for module in modules if module is not None]
    found = {}
    for name, parameter in model.named_parameters():
        if any(parameter is weight for weight in weights):
            found[name] = parameter
    return found


def _free_rows(
    mode: TrainEmbeddings, hold: HoldRows, location: ModelLocation, tokenizer: Any, height: int
) -> torch.Tensor | None:
    import torch

    held = special_rows(tokenizer, height) if hold == "special" else set()
    if mode == "whole":
        return torch.tensor([row for row in range(height) if row not in held]) if held else None
    found = new_rows(location) if mode == "new_rows" else chat_rows(tokenizer)
    rows = [row for row in found if row not in held]
    if not rows:
        why = (
            f"its {len(found)} rows are held still, see hold_rows" if found else "its template writes no special token"
        )
        raise AdaptError(f"train_embeddings: {mode} trains nothing in '{location.path}': {why}")
    return torch.tensor(rows)


def attach_rows(
    model: PreTrainedModel,
    mode: TrainEmbeddings,
    hold: HoldRows,
    location: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
) -> EmbeddingRows:
    """Let the rows that `mode` and `hold` leave free train, and freeze the rest. `model` is the plain (inner) model."""
    parameters = embedding_parameters(model)
    tied = len(parameters) == 1
    for parameter in parameters.values():
        parameter.requires_grad_(mode != "frozen")
    if mode == "frozen":
        return EmbeddingRows((), (), None, tied)
    height = next(iter(parameters.values())).shape[0]
    free = _free_rows(mode, hold, location, tokenizer, height)
    rows = EmbeddingRows(tuple(parameters), tuple(parameters.values()), free, tied)
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
        if free is not None:
            parameter.register_hook(_zero_outside(free))
    return rows


def _zero_outside(free: torch.Tensor) -> Any:
    def hook(gradient: torch.Tensor) -> torch.Tensor:
        rows = free.to(gradient.device)
        masked = gradient.new_zeros(gradient.shape)
        masked[rows] = gradient[rows]
        return masked

    return hook
