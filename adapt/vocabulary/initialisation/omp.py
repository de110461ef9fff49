"""`omp`: a new row is written with few shared tokens in a donor model's space, and built from them in the base's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.settings import Count
from adapt.vocabulary.initialisation.base import NewRows, Side
from adapt.vocabulary.initialisation.combination import Combination, Combining, accelerator

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from adapt.vocabulary.evidence import Evidence

_CELLS = 2**25
"""Numbers that a batch of targets may hold at once."""
_EXACT = 1e-7
"""A residual below this share of the target is rounding."""


class Omp(Combining):
    """Sparse reconstruction from a donor model that has the new pieces already."""

    sided: ClassVar[bool] = True

    paths: ClassVar[tuple[str, ...]] = ("donor",)

    method: Literal["omp"] = "omp"
    """Sparse reconstruction from a donor model that has the new pieces already."""
    donor: str
    """The donor's folder: config.json, tokenizer and safetensors. Numbers should be cut as in the base model."""
    tokens: Count = 64
    """How many shared tokens a new row is made of, at most."""

    def files(self) -> Iterator[Path]:
        """The donor's configuration, tokenizer and weights."""
        folder = Path(self.donor).expanduser()
        found = sorted(path for kind in ("*.json", "*.safetensors") for path in folder.glob(kind))
        return iter(found or [folder / "config.json"])

    def combination(self, new: NewRows) -> Combination:
        """`d_t ~ sum_s c_s d_s` over tokens s that both models have; the same c in the base's space.

        As token surgeon does it (Goddard and Fernandes Neto 2025, arXiv 2506.06607). A piece that the donor has no
        token for is left to its parts. The weights may be negative: this is no convex method.
        """
        import torch

        evidence = self.evidence_of(new)
        tokenizer, matrix = read_donor(self.donor, new.side)
        known = _texts(tokenizer, len(matrix))
        base, donor = _shared(new, evidence, known, self.donor)
        wanted = _wanted(new, evidence, known)
        places = [place for place, index in enumerate(wanted) if index is not None]
        targets = matrix[[wanted[place] for place in places]]
        chosen, weights, residual = orthogonal_matching_pursuit(targets, matrix[donor], self.tokens)
        ids: list[list[int]] = [[] for _ in new.ids]
        values = [torch.zeros(0) for _ in new.ids]
        for row, place in enumerate(places):
            used = weights[row] != 0
            ids[place], values[place] = base[chosen[row][used]].tolist(), weights[row][used]
        mean = float(residual.mean()) if len(residual) else 0.0
        return Combination(ids, values, extra={"shared": len(base), "residual": mean})


def read_donor(donor: str, side: Side) -> tuple[PreTrainedTokenizerBase, torch.Tensor]:
    """The tokenizer of a model's folder and its matrix of one side `[V, d]`, the input one where it has no other.

    Only that tensor is read. Raises AdaptError for a folder that is missing or no checkpoint.
    """
    from adapt.checkpoints import ModelLocation, load_tokenizer
    from merge.checkpoint import Checkpoint
    from merge.errors import MergeError

    folder = Path(donor).expanduser()
    if not (folder / "config.json").is_file():
        raise AdaptError(f"there is no donor model '{donor}'; give a folder with config.json (nothing is downloaded)")
    try:
        checkpoint = Checkpoint(donor, folder)
        name = checkpoint.embedding if side == "input" else checkpoint.head or checkpoint.embedding
        matrix = checkpoint.tensor(name)
    except MergeError as error:
        raise AdaptError(f"cannot read the donor: {error}") from error
    return load_tokenizer(ModelLocation(str(folder))), matrix


def _texts(tokenizer: PreTrainedTokenizerBase, height: int) -> dict[str, int]:
    """The donor's ordinary tokens by the text that they stand for."""
    from adapt.vocabulary.rows import ordinary_rows
    from adapt.vocabulary.vectors import texts_of

    ids = ordinary_rows(tokenizer, height).tolist()
    return {text: index for text, index in zip(texts_of(ids, tokenizer), ids, strict=True) if text}


def _shared(new: NewRows, evidence: Evidence, known: dict[str, int], donor: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of the tokens that both models have, `[n]` in the base and `[n]` in the donor."""
    import torch

    from adapt.vocabulary.vectors import texts_of

    old = new.ordinary.tolist()
    pairs = [(i, known[text]) for i, text in zip(old, texts_of(old, evidence.old), strict=True) if text in known]
    if not pairs:
        raise AdaptError(f"the donor '{donor}' shares no token with the base model, so nothing can be taken from it")
    base, other = torch.tensor(pairs).T
    return base, other


def _wanted(new: NewRows, evidence: Evidence, known: dict[str, int]) -> list[int | None]:
    """The donor's id of each new piece, None where it has none."""
    from adapt.vocabulary.vectors import texts_of

    return [known.get(text) if text else None for text in texts_of(new.ids, evidence.new)]


def orthogonal_matching_pursuit(
    targets: torch.Tensor, atoms: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Write each target with at most `count` atoms: places `[m, k]`, weights `[m, k]`, relative residuals `[m]`.

    Pati et al. 1993: again and again take the atom with the largest `|a . r| / ||a||` for the residual r, and solve
    least squares over all taken so far. `targets` `[m, d]`, `atoms` `[n, d]`. A target that is reached exactly takes
    no more atoms, their weights are 0. Exact where count >= d and the atoms span the space. Batches of targets bound
    the memory and do not change the result.
    """
    import torch

    atoms, targets = atoms.to(accelerator(), torch.float32), targets.to(accelerator(), torch.float64)
    count = min(count, len(atoms))
    size = max(1, min(_CELLS // len(atoms), _CELLS // (count * atoms.shape[1])))
    if not len(targets):
        return torch.zeros(0, count, dtype=torch.long), torch.zeros(0, count), torch.zeros(0)
    parts = zip(*(_pursue(part, atoms, count) for part in targets.split(size)), strict=True)
    places, weights, residuals = (torch.cat(part).cpu() for part in parts)
    return places, weights.float(), residuals.float()


def _pursue(targets: torch.Tensor, atoms: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One batch. The chosen atoms are kept as `A = Q R`, Q orthonormal by row, so that weights solve `R c = Q v`."""
    import torch

    (rows, width), device = targets.shape, targets.device
    norms = atoms.norm(dim=1)
    basis = targets.new_zeros(rows, count, width)
    triangle = torch.eye(count, dtype=targets.dtype, device=device).expand(rows, -1, -1).clone()
    coordinates = targets.new_zeros(rows, count)
    places = torch.zeros(rows, count, dtype=torch.long, device=device)
    taken = torch.zeros(rows, len(atoms), dtype=torch.bool, device=device) | (norms == 0)
    residual, length = targets.clone(), targets.norm(dim=1)
    for step in range(count):
        active = residual.norm(dim=1) > _EXACT * length
        if not active.any():
            break
        unit = torch.nn.functional.normalize(residual, dim=1).float()
        scores = (unit @ atoms.T).abs() / norms.clamp_min(torch.finfo(torch.float32).tiny)
        pick = scores.masked_fill(taken, -1).argmax(1)
        taken[torch.arange(rows, device=device), pick] = True
        atom, used = atoms[pick].double(), basis[:, :step]
        rest, shares = atom.clone(), atom.new_zeros(rows, step)
        for _ in range(2):  # twice: once leaves rounding that grows with the number of atoms
            more = torch.einsum("bsd,bd->bs", used, rest)
            shares, rest = shares + more, rest - torch.einsum("bs,bsd->bd", more, used)
        height = rest.norm(dim=1)
        active &= height > _EXACT * atom.norm(dim=1)  # else all that is left is orthogonal to every atom
        basis[active, step] = (rest / height[:, None])[active]
        triangle[active, :step, step] = shares[active]
        triangle[active, step, step] = height[active]
        places[:, step] = pick
        coordinates[:, step] = torch.einsum("bd,bd->b", basis[:, step], residual)
        residual = residual - coordinates[:, step, None] * basis[:, step]
    weights = torch.linalg.solve_triangular(triangle, coordinates[..., None], upper=True)[..., 0]
    tiny = torch.finfo(targets.dtype).tiny
    return places, weights, residual.norm(dim=1) / length.clamp_min(tiny)
