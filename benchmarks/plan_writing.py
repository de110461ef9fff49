"""The planner's estimate of main memory while models are written, against what that takes.

    python benchmarks/plan_writing.py [NAME ...]

A random Llama of 0.17 billion parameters in bf16 is trained for two updates by some methods, merged, grown and
exported. Of a train stage only the writing of its result is measured, above the model that trained; of the others all
of the stage. Measured are bytes that the C library has given out and models mapped from their files; pages are the
anonymous ones of the process.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from plan_memory import compare, context_in, measure

METHODS: dict[str, Any] = {
    "full": "full",
    "lora": "lora",
    "lora, embeddings whole": {"kind": "lora", "train_embeddings": "whole"},
    "qlora": "qlora",
}
PIECES = [f"qz{first}{second}xw" for first in "abcdefghij" for second in "abcdefghij"]
STAGES: dict[str, dict[str, Any]] = {
    "merge": {"kind": "merge", "expression": "base + 0.5 * (other - base)", "unrelated": True},
    "expand_vocabulary": {
        "kind": "expand_vocabulary",
        "model": "base",
        "corpus": "text",
        "mode": "tokens",
        "tokens": PIECES,
        "init": "mean_of_pieces",
        "measure": 0,
    },
    "export": {"kind": "export", "model": "base"},
}


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """`measured` and `resident` of the block, filled in when it ends."""
    from transformers import PreTrainedModel

    from adapt.training.meter import Meter, allocated_bytes, mapped_bytes

    found, models, end = {"measured": 0}, [], threading.Event()
    load, before = PreTrainedModel.from_pretrained.__func__, allocated_bytes() or 0

    def noted(kind: Any, *arguments: Any, **options: Any) -> Any:
        model = load(kind, *arguments, **options)
        models.append(weakref.ref(model[0] if isinstance(model, tuple) else model))
        return model

    def mapped(reference: weakref.ref[Any]) -> int:
        model = reference()
        return 0 if model is None else mapped_bytes(model)

    def look() -> None:
        while not end.wait(0.02):
            with suppress(RuntimeError):  # a model that changes just now
                taken = (allocated_bytes() or 0) - before + sum(map(mapped, models))
                found["measured"] = max(found["measured"], taken)

    PreTrainedModel.from_pretrained = classmethod(noted)
    with Meter() as meter:
        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield found
        finally:
            end.set()
            thread.join()
    found["resident"] = meter.resident or 0


def trained(folder: Path, settings: Any) -> dict[str, Any]:
    """The writing of what a method trained."""
    from adapt.methods import METHODS as KINDS
    from adapt.planning.configs import config_of
    from adapt.planning.sketch import Vocabulary
    from adapt.planning.writing import proof

    numbers: dict[str, Any] = {}
    kind = settings if isinstance(settings, str) else settings["kind"]
    method = next(one for one in KINDS if one.model_fields["kind"].default == kind)
    save = method.save

    def measured(self: Any, result: Any, place: Path) -> dict[str, Any]:
        with watched() as found:
            metrics = save(self, result, place)
        config = config_of(result.location)
        estimate = proof(config, Vocabulary(config.vocab_size), positions=result.probe.numel())
        numbers.update(found, estimate=estimate)
        return metrics

    method.save = measured
    measure(folder, {"method": settings, "sequence_length": 128, "batch_size": 1, "evaluation_bytes": 200})
    return numbers


def made(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A stage that trains nothing."""
    from adapt.checkpoints import ModelLocation
    from adapt.planning.configs import config_of
    from adapt.planning.others import WORK, grown
    from adapt.planning.sketch import Vocabulary
    from adapt.stages import STAGES as KINDS

    stage = next(one for one in KINDS if settings["kind"] in str(one.model_fields["kind"].annotation))(**settings)
    config = config_of(ModelLocation(str(folder / "model")))
    words = Vocabulary(config.vocab_size)
    words = grown(stage, words) if settings["kind"] == "expand_vocabulary" else words
    with tempfile.TemporaryDirectory() as place, watched() as found:
        stage.run(context_in(Path(place), folder))
    return {"estimate": WORK[settings["kind"]](stage, config, words, "cpu")[0], **found}


def measured(folder: Path, settings: Any) -> dict[str, Any]:
    """One case, in this process."""
    found = made(folder, settings) if settings in STAGES.values() else trained(folder, settings)
    return found | {"error": found["estimate"] / found["measured"] - 1}


if __name__ == "__main__":
    compare(METHODS | STAGES, measured, 1024, 14)
