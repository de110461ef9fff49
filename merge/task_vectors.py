"""Task vectors as folders: `instruct - base`, extracted once, added to any relative later.

The differences are kept in float32 (in bfloat16 a tenth of them would lose bits that the sum needs). A folder has the
tokenizer, chat template and generation settings of the model that was made; rows of its special and chat tokens hold
that model's rows themselves, since these are taken over whole and not added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from merge.checkpoint import Checkpoint, read_json
from merge.errors import MergeError

MARK = "task_vector.json"


def is_task_vector(folder: Path) -> bool:
    """Whether a folder holds a saved task vector."""
    return (folder / MARK).exists()


def extract(
    expression: str,
    folders: Mapping[str, str | Path],
    output: str | Path,
    threads: int | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Write the task vector `expression`, such as `instruct - base`, to a new folder; returns what its mark says.

    Raises MergeError as a merge does, and for an expression that is a model.
    """
    from merge.engine import write
    from merge.formula import names_in
    from merge.planning import prepare

    first = names_in(expression)[0]
    merge = prepare(expression, folders, torch.float32, special_from=first, as_vector=True)
    mark = {"task_vector": expression, "rows_of_special_tokens": first}
    record = write(merge, output, threads=threads, progress=progress, beside={MARK: json.dumps(mark, indent=2) + "\n"})
    return record | mark


def info(folder: Path) -> dict[str, Any]:
    """What a saved task vector is: expression, size, models, tensors.

    Raises MergeError for a folder that is none.
    """
    if not is_task_vector(folder):
        raise MergeError(f"'{folder}' is no saved task vector: it has no {MARK}")
    record = read_json(folder / "merge.json")
    vector = Checkpoint("vector", folder)
    body = [name for name in vector.tensors if not vector.is_vocabulary(name)]
    parts = (part.double() for name in body for part in vector.tensor(name).view(-1).split(2**20))
    norm = sum(float(torch.dot(part, part)) for part in parts) ** 0.5
    return {
        "expression": record["expression"],
        "models": {name: entry["folder"] for name, entry in record["inputs"].items()},
        "tensors": len(vector.tensors),
        "elements": sum(torch.Size(found.shape).numel() for found in vector.tensors.values()),
        "norm_without_embeddings": norm,
        "special_rows": record["rows"]["special"],
    }
