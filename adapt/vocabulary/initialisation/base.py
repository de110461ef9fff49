"""What a way to initialise new rows is: one matrix in, the new rows out; where it helps, with evidence from text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from typing_extensions import Self

    from adapt.vocabulary.evidence import Evidence

Side = Literal["input", "output"]


@dataclass(frozen=True)
class NewRows:
    """What is known of the rows to make.

    `ids[i]` is the row of the i-th new piece, `pieces[i]` are the old ids that it is made of, in the order of the
    text; `ordinary` `[n]` are the rows of old pieces that were trained: no special tokens, no rows that belong to no
    token. `side` is "input" for a tied matrix. `evidence` is the model and text for methods that look at them.
    `height` is the number of rows before the matrix grew, padding included.
    """

    pieces: Sequence[Sequence[int]]
    ordinary: torch.Tensor
    side: Side
    seed: int
    ids: Sequence[int] = ()
    tied: bool = False
    evidence: Evidence | None = None
    height: int | None = None


class Initialisation(Settings, ABC):
    """Base of all initialisations. One file each; `adapt.vocabulary.initialisation.INITIALISATIONS` is the table."""

    @abstractmethod
    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """The new rows, float32 `[k, d]`, from the old matrix `[V, d]` of the same side (or the tied one)."""

    def refine(self, sides: Mapping[Side, NewRows]) -> dict[str, Any]:
        """Change the new rows of `evidence.model` once both sides are filled, and return what was measured.

        `sides` holds one entry for a tied matrix. Most methods do nothing here.
        """
        return {}

    paths: ClassVar[tuple[str, ...]] = ()
    """The fields that name a file or a folder."""

    def files(self) -> Iterator[Path]:
        """The files that the method reads; their contents belong to the stage's key."""
        return iter(())

    def relative_to(self, folder: Path) -> Self:
        """The same method; relative paths under which nothing lies here are looked up in `folder`."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        changes = {name: _near(value, folder, name in self.paths) for name, value in given.items()}
        return self.model_copy(update={name: value for name, value in changes.items() if value is not given[name]})

    @property
    def label(self) -> str:
        """The method's name, with the settings that differ from their defaults: `last_first (prior False)`."""
        fields = ((name, getattr(self, name), field.default) for name, field in type(self).model_fields.items())
        settings = [
            f"{name} {_shown(value)}" for name, value, default in fields if name != "method" and value != default
        ]
        name = str(getattr(self, "method", type(self).__name__))
        return f"{name} ({', '.join(settings)})" if settings else name


def _shown(value: Any) -> str:
    return value.label if isinstance(value, Initialisation) else str(value)


def evidence_for(new: NewRows, method: str) -> Evidence:
    """The evidence, for a method that cannot do without. Raises AdaptError where there is none."""
    if new.evidence is None:
        raise AdaptError(f"init '{method}' looks at text, but none was given; call grow with evidence")
    return new.evidence


def random_for(new: NewRows) -> np.random.Generator:
    """Random numbers that follow from the seed, and differ between the input and the output side."""
    import numpy as np

    return np.random.default_rng([new.seed, int(new.side == "output")])


def _near(value: Any, folder: Path, is_path: bool) -> Any:
    """A setting with its paths looked up in `folder`; the value itself where nothing changes."""
    if isinstance(value, Initialisation):
        return value.relative_to(folder)
    if isinstance(value, tuple) and any(isinstance(part, Initialisation) for part in value):
        return tuple(_near(part, folder, False) for part in value)
    if not is_path or not value:
        return value
    from pathlib import Path

    given = Path(value).expanduser()
    return str(folder / given) if not given.exists() and (folder / given).exists() else value


def weighted_rows(
    matrix: torch.Tensor, pieces: Sequence[Sequence[int]], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """`row_i = sum_j weights[i][j] * matrix[pieces[i][j]]` in float32: `[k, d]` from `[V, d]`."""
    import torch

    indices = torch.tensor([index for piece in pieces for index in piece], device=matrix.device)
    lengths = torch.tensor([len(piece) for piece in pieces], device=matrix.device)
    owner = torch.repeat_interleave(torch.arange(len(pieces), device=matrix.device), lengths)
    scaled = matrix[indices].float() * torch.cat(list(weights)).to(matrix.device).float()[:, None]
    return matrix.new_zeros((len(pieces), matrix.shape[1]), dtype=torch.float32).index_add_(0, owner, scaled)
