"""Which rows of the embeddings train, and that no other row moves.

Where some rows train (`new_rows`, `chat_rows`), they are a parameter of their own beside the frozen matrix, see
`adapt.training.two_tables`. Where the whole matrix trains, a few rows of it are held: a hook on its gradient sets them
to zero. Under Adam a row whose gradients were always zero has zero moments, its step is `0 / (0 + eps) = 0`, and
without weight decay it stays bit for bit what it was. Special and chat tokens that never occur in the text would
otherwise move as fast as any other row: they receive the softmax's gradient in every step, and Adam divides by its
size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from adapt.checkpoints import ModelLocation, read_json
from adapt.errors import AdaptError
from adapt.settings import Settings, parse_number

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


HoldRows = Literal["special", "none"]
TrainEmbeddings = Literal["frozen", "new_rows", "chat_rows", "whole"]
VOCABULARY_FILE = "adapt_vocabulary.json"


class OldRows(Settings):
    """The rows of the embeddings that are not new train as well, more slowly."""

    lr_scale: Annotated[float, BeforeValidator(parse_number), Field(gt=0, le=1)] = 0.1
    """Their learning rate, as a part of the new rows'."""


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

    `names` are the weights' names in the plain model: one where the two are tied (`again` is its other name), two
    otherwise. `parameters` are what trains at the embeddings' rate: the whole weights, or the rows `free` as parameters
    `[k, d]` beside the weights `tables`; none where the embeddings are frozen. `free` are the ids of the rows that may
    move, `None` for all. `slow` are those of the tables that move as well, at `slow_rate` of the embeddings' rate;
    `None` where the tables are frozen.
    """

    names: tuple[str, ...]
    parameters: tuple[torch.nn.Parameter, ...]
    free: torch.Tensor | None
    tied: bool
    again: tuple[str, ...] = ()
    tables: tuple[torch.nn.Parameter, ...] = ()
    slow: torch.Tensor | None = None
    slow_rate: float = 1.0

    @property
    def all_parameters(self) -> tuple[torch.nn.Parameter, ...]:
        """Everything that the embeddings consist of, whether it trains or not."""
        return (*self.parameters, *self.tables)

    def held(self) -> Iterator[tuple[str, torch.Tensor]]:
        """For each weight that trains its name and those of its rows that must not move, `[rows, width]`."""
        weights, moving = (self.tables, self.slow) if self.tables else (self.parameters, self.free)
        if moving is None:  # all rows move, or the weight is frozen as a whole
            return
        for name, weight in zip(self.names, weights, strict=True):
            yield name, weight.detach()[_others(moving, weight.shape[0]).to(weight.device)]

    def training(self) -> dict[int, int]:
        """How many numbers train in each parameter of the embeddings, by the parameter's id."""
        held = {name: tensor.numel() for name, tensor in self.held()}
        weights = self.tables if self.tables else self.parameters
        counts = {id(rows): rows.numel() for rows in self.parameters}
        for name, weight in zip(self.names, weights, strict=False):
            counts[id(weight)] = (weight.numel() - held.get(name, 0)) if weight.requires_grad else 0
        return counts

    def tensors(self) -> dict[str, torch.Tensor]:
        """What trained: `ids [n]`, and under each weight's name its rows `[n, width]` in float32; empty for nothing."""
        import torch

        if not self.parameters:
            return {}
        pairs = zip(self.names, self.parameters, strict=True)
        rows = {name: parameter.detach().float().cpu() for name, parameter in pairs}
        if not self.tables:
            ids = torch.arange(self.parameters[0].shape[0]) if self.free is None else self.free
            return {"ids": ids} | {name: weight[ids] for name, weight in rows.items()}
        if self.slow is None:
            return {"ids": self.free} | rows
        ids = torch.arange(self.tables[0].shape[0])
        whole = dict(zip(self.names, (table.detach().cpu() for table in self.tables), strict=True))
        return {"ids": ids} | {name: table.index_copy(0, self.free, rows[name]) for name, table in whole.items()}


def _others(rows: torch.Tensor, height: int) -> torch.Tensor:
    """The ids below `height` that are not among `rows`."""
    import torch

    mask = torch.ones(height, dtype=torch.bool)
    mask[rows.cpu()] = False
    return mask.nonzero().flatten()


def embedding_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The weights of input and output embedding by name; one entry where they are tied.

    Tying is read off the model itself: the two are tied when they are one parameter.
    """
    found: dict[str, torch.nn.Parameter] = {}
    for name, parameter in _embedding_names(model):
        if all(parameter is not other for other in found.values()):
            found[name] = parameter
    return found


def _embedding_names(model: PreTrainedModel) -> list[tuple[str, torch.nn.Parameter]]:
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [module.weight for module in modules if module is not None]
    pairs = model.named_parameters(remove_duplicate=False)
    return [(name, parameter) for name, parameter in pairs if any(parameter is weight for weight in weights)]


def _listed_rows(mode: TrainEmbeddings, held: set[int], location: ModelLocation, tokenizer: Any) -> torch.Tensor:
    """The ids that `new_rows` or `chat_rows` mean, ascending. Raises AdaptError where none is left to train."""
    import torch

    found = chat_rows(tokenizer) if mode == "chat_rows" else new_rows(location)
    rows = [row for row in found if row not in held]
    if not rows:
        why = (
            f"its {len(found)} rows are held still, see hold_rows" if found else "its template writes no special token"
        )
        raise AdaptError(f"train_embeddings: {mode} trains nothing in '{location.path}': {why}")
    return torch.tensor(sorted(rows))


def attach_rows(
    model: PreTrainedModel,
    mode: TrainEmbeddings,
    hold: HoldRows,
    location: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
    old_rows: OldRows | None = None,
) -> EmbeddingRows:
    """Let the rows that `mode` and `hold` leave free train, and freeze the rest. `model` is the plain (inner) model."""
    height = next(iter(embedding_parameters(model).values())).shape[0]
    held = special_rows(tokenizer, height) if hold == "special" and mode != "frozen" else set()
    listed = mode in ("new_rows", "chat_rows") or (mode == "whole" and old_rows is not None)
    return free_rows(model, mode, held, _listed_rows(mode, held, location, tokenizer) if listed else None, old_rows)


def free_rows(
    model: PreTrainedModel,
    mode: TrainEmbeddings,
    held: set[int],
    listed: torch.Tensor | None,
    old_rows: OldRows | None = None,
) -> EmbeddingRows:
    """`attach_rows` for ids that are known: those that stand still, and those that `new_rows` or `chat_rows` mean."""
    parameters = embedding_parameters(model)
    names, weights = tuple(parameters), tuple(parameters.values())
    again = tuple(name for name, _ in _embedding_names(model) if name not in parameters)
    height, tied = weights[0].shape[0], len(weights) == 1
    trained_whole = mode == "whole" or old_rows is not None
    for weight in weights:
        weight.requires_grad_(trained_whole and mode != "frozen")
    if mode == "frozen":
        return EmbeddingRows(names, (), None, tied, again)
    if mode == "whole" and old_rows is None:
        free = _others(_ids(held), height) if held else None
        _train_whole(weights, _ids(held))
        return EmbeddingRows(names, weights, free, tied, again)
    from adapt.training.two_tables import set_apart

    free = _others(_ids(held), height) if listed is None else listed
    rows = EmbeddingRows(names, set_apart(model, free), free, tied, again, weights)
    if old_rows is not None:
        rows.slow, rows.slow_rate = _others(_ids({*held, *free.tolist()}), height), old_rows.lr_scale
        _train_whole(weights, _ids(held))
    return rows


def _ids(rows: set[int]) -> torch.Tensor:
    import torch

    return torch.tensor(sorted(rows), dtype=torch.long)


def _train_whole(weights: tuple[torch.nn.Parameter, ...], held: torch.Tensor) -> None:
    """Train weights in float32 with the rows `held` standing still."""
    for weight in weights:
        weight.data = weight.data.float()
        if len(held):
            weight.register_hook(lambda gradient: gradient.index_fill(0, held.to(gradient.device), 0))
