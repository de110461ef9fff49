"""Skip-gram with negative sampling in which some rows are convex combinations of others, and only these train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CELLS = 2**25
"""Numbers of the weights' matrix that are held at once."""
_PIECES = 0.9
"""The share of the weight that a piece's own parts begin with, where they do."""
_NOISE = 0.75
"""The power of the counts that negatives are drawn by."""


@dataclass
class Mixture:
    """New rows as `softmax(A1 A2 + prior) old`, a point in the convex hull of the old rows.

    `left` A1 `[k, r]`, `right` A2 `[r, n]`, `columns` `[n]` the ids of the n old rows. The prior is
    `log(1 + share)` at the places `[3, m]` of row, column, share; it is 0 elsewhere.
    """

    left: torch.Tensor
    right: torch.Tensor
    columns: torch.Tensor
    where: torch.Tensor
    prior: torch.Tensor

    @classmethod
    def begin(
        cls, pieces: Sequence[Sequence[int]], columns: torch.Tensor, rank: int, generator: torch.Generator
    ) -> Mixture:
        """Weights that begin near the means of pieces; without parts at the mean of all `columns`, on its device.

        A1 is 0 and A2 random, so that the first rows are exactly those of the prior.
        """
        import torch

        place = {index: column for column, index in enumerate(columns.tolist())}
        share = _PIECES / (1 - _PIECES) * len(columns)
        entries: dict[tuple[int, int], float] = {}
        for row, piece in enumerate(pieces):
            known = [place[index] for index in piece if index in place]
            for column in known:
                entries[row, column] = entries.get((row, column), 0.0) + share / len(known)
        where = torch.tensor(list(entries), dtype=torch.long).reshape(-1, 2)
        prior = torch.log1p(torch.tensor(list(entries.values()), dtype=torch.float32))
        left = torch.zeros(len(pieces), rank)
        right = torch.randn(rank, len(columns), generator=generator) / rank**0.5
        left, right, where, prior = (part.to(columns.device) for part in (left, right, where, prior))
        return cls(left.requires_grad_(), right.requires_grad_(), columns, where, prior)

    def weights(self, rows: torch.Tensor) -> torch.Tensor:
        """The weights of some new rows over the old ones, `[len(rows), n]`; each row sums to 1."""
        import torch

        logits = self.left[rows] @ self.right
        order = torch.full((len(self.left),), -1, device=rows.device)
        order[rows] = torch.arange(len(rows), device=rows.device)
        here = order[self.where[:, 0]]
        kept = here >= 0
        logits = logits.index_put((here[kept], self.where[kept, 1]), self.prior[kept], accumulate=True)
        return torch.softmax(logits, dim=1)

    def chunks(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Parts of some new rows whose weights fit into memory."""
        yield from rows.split(max(1, _CELLS // len(self.columns)))

    def rows(self, matrix: torch.Tensor) -> torch.Tensor:
        """All new rows, float32 `[k, d]`, from the old matrix `[V, d]`."""
        import torch

        device = self.columns.device
        old = matrix[self.columns.to(matrix.device)].float().to(device)
        with torch.no_grad():
            everything = torch.arange(len(self.left), device=device)
            return torch.cat([self.weights(part) @ old for part in self.chunks(everything)]).to(matrix.device)


class Table:
    """Looks up rows of both kinds in one matrix, and brings gradients of the new ones to their weights.

    Where the rows of a step need more than one chunk of weights, the chunks are made without a graph, and again for
    the gradient. So no more than one chunk of the `[k, n]` weights is in memory.
    """

    def __init__(self, mixture: Mixture, matrix: torch.Tensor, place: torch.Tensor) -> None:
        self.mixture, self.matrix, self.place = mixture, matrix, place
        self.old = matrix[mixture.columns].float()
        self._made: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `[.., d]` of ids `[..]`; `place[id]` is the number of a new row, or -1."""
        import torch

        seen, inverse = ids.unique(return_inverse=True)
        places = self.place[seen]
        new = places >= 0
        found = self.matrix[seen.masked_fill(new, 0)].float()
        if new.any():
            found = found.index_put((new,), self._rows(places[new]))
        return torch.nn.functional.embedding(inverse, found)

    def _rows(self, used: torch.Tensor) -> torch.Tensor:
        import torch

        parts = list(self.mixture.chunks(used))
        with torch.set_grad_enabled(len(parts) == 1):
            rows = torch.cat([self.mixture.weights(part) @ self.old for part in parts])
        if len(parts) > 1:
            rows.requires_grad_()
            self._made.append((used, rows))
        return rows

    def backward(self) -> None:
        """Pass the gradients of the rows looked up since the last call on to the weights."""
        for used, rows in self._made:
            if rows.grad is not None:
                gradients = rows.grad.split([len(part) for part in self.mixture.chunks(used)])
                for part, gradient in zip(self.mixture.chunks(used), gradients, strict=True):
                    (self.mixture.weights(part) @ self.old).backward(gradient)
        self._made.clear()


@dataclass(frozen=True)
class Walk:
    """How the text is gone through: neighbours to each side, negatives for each pair, epochs, pairs a step, rate."""

    window: int
    negatives: int
    epochs: int
    batch: int
    learning_rate: float


def train(
    centre: Table, context: Table, documents: Sequence[Sequence[int]], walk: Walk, generator: torch.Generator
) -> list[float]:
    """Train the new rows on documents of ids, in place, and return each epoch's mean loss in nats a pair.

    `loss = -log s(u_o . v_c) - sum_n log s(-u_n . v_c)` for each neighbour o of c, n drawn by `count^0.75`
    (Mikolov et al. 2013), v from the `centre` table and u from the `context` table; these may share their weights.
    """
    import torch

    text = _Text.of(documents, len(centre.place), centre.place.device)
    factors = {id(part): part for table in (centre, context) for part in (table.mixture.left, table.mixture.right)}
    optimizer = torch.optim.Adam(factors.values(), lr=walk.learning_rate)
    losses = []
    for _ in range(walk.epochs):
        total = pairs = 0.0
        for positions in text.order(generator).split(max(1, walk.batch // (2 * walk.window))):
            first, second = text.pairs(positions, walk.window)
            if not len(first):
                continue
            loss = _loss(centre, context, first, second, text.negatives(len(first), walk.negatives, generator))
            optimizer.zero_grad()
            if loss.requires_grad:
                (loss / len(first)).backward()
                centre.backward()
                context.backward()
                optimizer.step()
            total, pairs = total + loss.item(), pairs + len(first)
        losses.append(total / max(1.0, pairs))
    return losses


def _loss(
    centre: Table, context: Table, first: torch.Tensor, second: torch.Tensor, negatives: torch.Tensor
) -> torch.Tensor:
    """The sum over pairs `[p]` and their negatives `[p, n]`; a negative that is the neighbour itself counts nothing."""
    import torch

    softplus = torch.nn.functional.softplus  # softplus(-x) = -log s(x)
    others = context(torch.cat([second[:, None], negatives], dim=1))
    scores = torch.einsum("pd,pnd->pn", centre(first), others)
    near, far = scores[:, 0], scores[:, 1:]
    return softplus(-near).sum() + softplus(far).masked_fill(negatives == second[:, None], 0).sum()


@dataclass(frozen=True)
class _Text:
    """Documents as one row of ids `[t]`, with each position's document, and the distribution of negatives."""

    ids: torch.Tensor
    document: torch.Tensor
    cumulative: torch.Tensor

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]], height: int, device: torch.device | None = None) -> _Text:
        import torch

        ids = torch.tensor([index for document in documents for index in document], dtype=torch.long, device=device)
        lengths = torch.tensor([len(document) for document in documents], dtype=torch.long, device=device)
        noise = torch.bincount(ids, minlength=height).double() ** _NOISE
        return cls(ids, torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths), noise.cumsum(0))

    def order(self, generator: torch.Generator) -> torch.Tensor:
        import torch

        return torch.randperm(len(self.ids), generator=generator).to(self.ids.device)

    def pairs(self, positions: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of all neighbours, in the same document, of some positions."""
        import torch

        steps = torch.cat([torch.arange(-window, 0), torch.arange(1, window + 1)]).to(positions.device)
        other = positions[:, None] + steps
        inside = (other >= 0) & (other < len(self.ids))
        other = other.clamp(0, len(self.ids) - 1)
        inside &= self.document[other] == self.document[positions][:, None]
        return self.ids[positions][:, None].expand_as(other)[inside], self.ids[other][inside]

    def negatives(self, pairs: int, count: int, generator: torch.Generator) -> torch.Tensor:
        import torch

        drawn = torch.rand(pairs, count, generator=generator, dtype=torch.float64).to(self.ids.device)
        drawn *= self.cumulative[-1]
        return torch.searchsorted(self.cumulative, drawn, right=True).clamp_max(len(self.cumulative) - 1)
