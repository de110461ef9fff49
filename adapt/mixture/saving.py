"""A trained mixture on the disk: its folder, and beside it the closest that a plain checkpoint comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from adapt.errors import AdaptError
from adapt.methods.base import Trained
from adapt.methods.export import live_logits, measure
from adapt.methods.streaming import Sum, write_sum
from adapt.mixture.collapse import weights_of
from adapt.mixture.collapsing import Weights, updates_of, whole_sum, write_updates
from adapt.mixture.folder import load_mixture, save_mixture
from adapt.mixture.mixture import Mixture, mixture_in
from adapt.mixture.observing import observe_batches

_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}
"""How far the logits of what was written may be from the live ones, as a part of the largest."""


def save_trained(trained: Trained, folder: Path) -> dict[str, Any]:
    """Write `folder/mixture` and `folder/model`; both are read back and compared with the model as it trained.

    `model/` holds the base with the adapters added in the shares that they had on the run's own data: the mean gates,
    which no longer depend on the text. What that costs is measured.
    """
    mixture = mixture_in(trained.model)
    with some_domains(mixture, len(trained.probe)):
        expected = live_logits(trained)
        if not mixture.averages:
            found = observe_batches(trained.model, mixture.routing, [{"input_ids": trained.probe}])
            mixture.averages = {place: observation.average for place, observation in found.items()}
    save_mixture(trained.model, trained.tokenizer, folder / "mixture")
    difference = read_back(trained, expected, folder / "mixture")
    proof, logits = write_average(trained, weights_of(trained.model, mixture.averages), folder / "model")
    return proof | {
        "reload_difference": max(difference, proof["reload_difference"]),
        "merge": {"written": measure(expected, logits)},
        "collapse": {"by": "average", **measure(expected, logits)},
    }


def write_average(trained: Trained, weights: Weights, folder: Path) -> tuple[dict[str, Any], torch.Tensor]:
    """Write the base with every adapter of a mixture times its weight, tensor by tensor; as `write_sum`.

    The sum lies on the disk as one adapter meanwhile.
    """
    updates = updates_of(trained.model, whole_sum(trained.model, weights))
    with TemporaryDirectory(dir=folder.parent, prefix=".sum-") as place:
        adapter = Path(place) / "adapter"
        write_updates(updates, trained.location.path, adapter)
        found = write_sum(Sum(trained, adapter=adapter, updates=updates), folder)
    (folder / "merge.json").unlink(missing_ok=True)  # it names the adapter that is gone
    return found


@contextmanager
def some_domains(mixture: Mixture, rows: int) -> Iterator[None]:
    """Name a domain for each row where gates cannot do without."""
    if not mixture.routing.strict:
        yield
        return
    with mixture.routing.naming(list(islice(cycle(mixture.names), rows))):
        yield


def read_back(trained: Trained, expected: torch.Tensor, folder: Path) -> float:
    """The largest difference of logits between a folder and the model that it was written from."""
    dtype = trained.precision.dtype
    model = load_mixture(folder, trained.location.path, dtype)[0].to(trained.precision.device)
    with some_domains(mixture_in(model), len(trained.probe)), torch.inference_mode(), trained.precision.autocast():
        logits = model(input_ids=trained.probe.to(trained.precision.device), use_cache=False).logits.float().cpu()
    difference = float((logits - expected).abs().max())
    limit = _TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
    if not difference <= limit:
        raise AdaptError(
            f"the mixture written to '{folder}' does not load back as it was: logits differ by {difference:.3g} "
            f"(allowed {limit:.3g})"
        )
    return difference
