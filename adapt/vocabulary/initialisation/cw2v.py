"""`cw2v`: constrained Word2Vec, a new row is the convex combination of old rows that predicts its neighbours best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapt.settings import Count, Positive
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side, evidence_for
from adapt.vocabulary.initialisation.combination import accelerator, kept

if TYPE_CHECKING:
    import torch

    from adapt.vocabulary.evidence import Evidence
    from adapt.vocabulary.skip_gram import Mixture


class Cw2v(Initialisation):
    """Convex combinations of old rows, trained to predict their neighbours in the corpus (constrained Word2Vec)."""

    method: Literal["cw2v"] = "cw2v"
    """Convex combinations of old rows, trained to predict their neighbours in the corpus (constrained Word2Vec)."""
    start: Literal["pieces", "mean"] = "pieces"
    """Where the training begins: near the mean of a piece's parts, or at the mean of all old rows as in the paper."""
    rank: Count = 256
    """Of the factors that the weights are trained in; 1,024 in the paper."""
    window: Count = 5
    """How many tokens to each side are neighbours."""
    negatives: Count = 5
    """Random tokens that each neighbour is told apart from."""
    epochs: Count = 3
    """Passes over the tokens; 5 in the paper."""
    tokens: Count = 50_000
    """The most tokens of the corpus that are trained on."""
    batch: Count = 4096
    """Pairs of neighbours a step."""
    learning_rate: Positive = 3e-4
    """Of Adam."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """`softmax(A1 A2) matrix` with the weights of this side; see `adapt.vocabulary.skip_gram`."""
        weights = self._fitted(new).weights
        return weights["input" if new.tied else new.side].rows(matrix)

    def refine(self, sides: Mapping[Side, NewRows]) -> dict[str, Any]:
        """Change nothing; report the loss of the first and of the last epoch."""
        losses = self._fitted(next(iter(sides.values()))).losses
        return {"cw2v": {"first_loss": losses[0], "last_loss": losses[-1]}}

    def _fitted(self, new: NewRows) -> Fitted:
        evidence = evidence_for(new, self.method)
        return kept(evidence, (self, tuple(new.ids), new.seed), lambda: self._fit(new, evidence))

    def _fit(self, new: NewRows, evidence: Evidence) -> Fitted:
        import torch

        from adapt.vocabulary.initialisation.filling import weight_of
        from adapt.vocabulary.skip_gram import Mixture, Table, Walk, train

        generator, device = torch.Generator().manual_seed(new.seed), accelerator()
        pieces = new.pieces if self.start == "pieces" else [()] * len(new.pieces)
        sides: tuple[Side, ...] = ("input",) if new.tied else ("input", "output")
        place = torch.full((evidence.model.get_input_embeddings().weight.shape[0],), -1)
        place[list(new.ids)] = torch.arange(len(new.ids))
        tables = []
        for side in sides:
            mixture = Mixture.begin(pieces, new.ordinary.to(device), self.rank, generator)
            tables.append(Table(mixture, weight_of(evidence.model, side).detach().to(device), place.to(device)))
        walk = Walk(self.window, self.negatives, self.epochs, self.batch, self.learning_rate)
        losses = train(tables[0], tables[-1], first_tokens(evidence.new_ids, self.tokens), walk, generator)
        return Fitted({side: table.mixture for side, table in zip(sides, tables, strict=True)}, losses)


def first_tokens(documents: Iterable[Sequence[int]], most: int) -> list[Sequence[int]]:
    """The first `most` tokens, the last document cut."""
    taken = []
    for document in documents:
        if most <= 0:
            break
        taken.append(document[:most])
        most -= len(taken[-1])
    return taken


@dataclass(frozen=True)
class Fitted:
    """The trained weights of both sides, or of the tied matrix under "input", and the mean loss of each epoch."""

    weights: Mapping[Side, Mixture]
    losses: list[float]
