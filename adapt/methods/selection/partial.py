"""What the methods have in common that train whole tensors of a model and leave the others as they are."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.methods.base import Batches, Method, Trained
from adapt.training.rows import TrainEmbeddings, embedding_parameters

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.selection.plan import Selection
    from adapt.methods.selection.turns import Length
    from adapt.methods.selection.units import Shapes
    from adapt.training.companion import Companion
    from adapt.training.precision import Precision


class Partial(Method):
    """Some of a model's tensors train, from master weights in float32, the others do not change by a bit.

    Frozen tensors keep the format in which they are stored where the run computes in bf16, and are in float32 where it
    computes in float32; what is written are the base's own. The choice is a `Selection`; see `adapt.methods.selection`.
    """

    train_embeddings: TrainEmbeddings = "whole"
    """Which rows of the input and output embeddings train: none (`frozen`), those of pieces that this recipe added
    (`new_rows`), those of the tokens that the chat template writes (`chat_rows`), or all (`whole`)."""

    @abstractmethod
    def select(self, shapes: Shapes, model: Any, round: int) -> Selection:
        """What trains, of parameters `shapes` (all but the embeddings). `round` counts the stages that drew before."""

    def length(self) -> Length:
        """Updates after which another part of the model trains; None: the same part in the whole run."""
        return None

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base in its stored format, or in float32 where the run computes so."""
        from adapt.checkpoints import load_model

        return load_model(location, "auto" if precision.bf16 else precision.dtype, **arguments)

    def attach(self, model: PreTrainedModel, round: int = 0) -> PreTrainedModel:
        """Choose what trains. Raises AdaptError where that is nothing."""
        from adapt.methods.selection.turns import thaw
        from adapt.methods.selection.units import parameters_of, shapes_of

        embeddings = {id(parameter) for parameter in embedding_parameters(model).values()}
        selection = self.select(shapes_of(model, embeddings), model, round)
        if not selection.names(0):
            raise AdaptError(f"method '{self.kind}' trains nothing of this model; see its settings")
        model.requires_grad_(False)
        thaw(model, selection, 0)
        learning = selection.names(0) if self.length() is None else parameters_of(selection.units)
        for name, parameter in model.named_parameters():
            if name in learning:
                parameter.data = parameter.data.float()
        model.adapt_selection = selection
        return model

    def build(
        self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any
    ) -> PreTrainedModel | Any:
        """The base with this stage's choice made; a stage over what another one trained makes another choice."""
        from adapt.methods.selection.plan import rounds_before

        return self.attach(self.load(location, precision, **arguments), rounds_before(location))

    def outline(self, model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
        """The first turn: what trains in float32, the rest in its stored format or as the run computes."""
        return self.attach(model if bf16 else model.float())

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """Freezes and thaws in turns, and tells what trained."""
        from adapt.methods.selection.turns import Turns

        return (Turns(model, model.adapt_selection, self.length()),)

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the base with what trained put in, rounded once to its stored format, and which tensors these are."""
        return self.write(trained, folder)[0]

    def write(self, trained: Trained, folder: Path) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
        """`save`; returns also the logits of the live and of the written model on the probe."""
        from adapt.methods.export import live_logits, measure
        from adapt.methods.live_base import live_weights
        from adapt.methods.selection.plan import write_selection
        from adapt.methods.streaming import Sum, write_sum

        expected, selection = live_logits(trained), trained.model.adapt_selection
        proof, logits = write_sum(Sum(trained, live_weights(trained, selection.trained())), folder / "model")
        write_selection(selection, folder / "model")
        return proof | {"merge": {"written": measure(expected, logits)}}, expected, logits
