"""Log-probabilities of all pairs under the model as it was before its first step.

They are computed once, from the model itself before anything of it has moved: no second model is in memory, and it does
not matter what the method changes (an adapter, rows of the embeddings, an adapter that starts at a part of the weights,
everything). For an adapter that starts at zero they are those of the model with the adapter off. They are kept beside
the checkpoints, so that a killed run goes on with the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adapt.evaluation.bits_per_byte import evaluating
from adapt.training.preference.log_probs import sequence_log_probs
from adapt.training.state import write_folder

if TYPE_CHECKING:
    from adapt.data.pairs import Pair, PairStream
    from adapt.training.precision import Precision
    from adapt.training.run import Run

Collate = Callable[[Sequence[Any]], dict[str, torch.Tensor]]
_FILE = "reference.safetensors"


def measure_pairs(model: Any, pairs: Sequence[Pair], size: int, collate: Collate, precision: Precision) -> torch.Tensor:
    """Log-probabilities of the chosen and the rejected answer, `[pairs, 2]` float32 on the CPU, `size` pairs at a time.

    Draws no random numbers and leaves the model as it was.
    """
    parts = []
    with evaluating(model), torch.no_grad(), precision.autocast():
        for start in range(0, len(pairs), size):
            batch = collate([pairs[index] for index in range(start, min(start + size, len(pairs)))])
            sums = sequence_log_probs(model, {name: value.to(model.device) for name, value in batch.items()})
            parts.append(torch.stack(sums.chunk(2), dim=1).float().cpu())
    return torch.cat(parts)


class Reference:
    """The numbers of every pair that a run reads; `table[number]` is `[chosen, rejected]`."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def columns(self, rows: Sequence[Pair]) -> dict[str, torch.Tensor]:
        """What TRL's trainer reads of a batch, `[pairs]` each."""
        found = self.table[[row["number"] for row in rows]]
        return {"ref_chosen_logps": found[:, 0].clone(), "ref_rejected_logps": found[:, 1].clone()}


def reference_of(run: Run, model: Any) -> Reference:
    """The reference of a run: from its folder where it is of the same start, else measured and written there.

    Of several processes the first one measures and the others read; where each has a part of the model, all measure.
    """
    world, key = run.plan.world, _key(run)
    path = run.folder / "checkpoints" / "reference" / _FILE

    def found() -> torch.Tensor:
        kept = _read(path, key)
        return _write(path, _measured(run, model), key) if kept is None else kept

    if not world.sharded:
        return Reference(world.first(found))
    if world.told(lambda: _read(path, key) is not None):
        return Reference(_read(path, key))
    table = _measured(run, model)
    return Reference(_write(path, table, key) if world.main else table)


def _measured(run: Run, model: Any) -> torch.Tensor:
    """The numbers of every pair that the run reads, `[pairs, 2]`."""
    stream: PairStream = run.stream
    first = dict(zip(reversed(stream.numbers.tolist()), reversed(range(len(stream))), strict=True))
    numbers = sorted(first)
    run.display.line(f"  reference log-probabilities of {len(numbers):,} pairs")
    rows = [stream[first[number]] for number in numbers]
    table = torch.full((numbers[-1] + 1, 2), torch.nan)
    table[numbers] = measure_pairs(model, rows, run.plan.batch_size, run.collate, run.plan.precision)
    return table


def _key(run: Run) -> str:
    """A digest of the model before its first step and of the pairs."""
    value = hashlib.blake2b(digest_size=16)
    for name, fingerprint in sorted(run.before.tensors.items()):
        value.update(f"{name} {fingerprint}\n".encode())
    value.update(run.stream.numbers.tobytes())
    return value.hexdigest()


def _write(path: Path, table: torch.Tensor, key: str) -> torch.Tensor:
    write_folder(path.parent, lambda partial: save_file({"log_probs": table}, partial / _FILE, metadata={"of": key}))
    return table


def _read(path: Path, key: str) -> torch.Tensor | None:
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("log_probs") if (file.metadata() or {}).get("of") == key else None
