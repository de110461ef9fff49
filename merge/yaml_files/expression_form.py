"""Our own form of a merge file: an expression and where its models lie.

expression: cpt + 0.8 * (instruct - base)
models: {cpt: runs/cpt, instruct: Qwen/Qwen3-8B, base: Qwen/Qwen3-8B-Base}
dtype: bfloat16
new_rows: lep-overlap
device: cuda
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from merge.device import CPU, device_of
from merge.errors import ExpressionError, MergeError
from merge.formula import names_in
from merge.lep import with_new_rows
from merge.locations import folders_of
from merge.planning import Merge, dtype_of, prepare
from merge.yaml_files.document import Entry

T = TypeVar("T")
FILE = "merge.yaml"
"""The name under which a merged folder keeps the file that it comes from."""
_KEYS = ("expression", "models", "dtype", "vocabulary_from", "special_from", "new_rows", "device")


def prepare_expression(root: Entry, text: str) -> Merge:
    """The merge that the file describes. Raises YamlError, with the line, for a mistake in it."""
    given = root.fields("the file", _KEYS, ("expression", "models"))
    places = {name: entry.text(name) for name, entry in given["models"].mapping("models").items()}
    roles = {key: given[key].text(key) if key in given else None for key in ("vocabulary_from", "special_from")}
    expression = given["expression"].text("expression")
    dtype = _read(given, "dtype", dtype_of)
    device = _read(given, "device", device_of) or CPU
    try:
        names = names_in(expression)
    except ExpressionError as error:
        raise given["expression"].fail(str(error)) from error
    try:
        folders = folders_of(names, places)
    except MergeError as error:
        raise given["models"].fail(str(error)) from error
    try:
        merge = prepare(expression, folders, dtype, **roles)
    except ExpressionError as error:
        raise given["expression"].fail(str(error)) from error
    carried = _read(given, "new_rows", lambda word: with_new_rows(merge, word)) or merge
    return replace(carried, beside=replace(carried.beside, files={FILE: text}), device=device)


def _read(given: Mapping[str, Entry], key: str, read: Callable[[str], T]) -> T | None:
    """What a key's text means, None where the key is not given; what it cannot mean is an error with the line."""
    if key not in given:
        return None
    try:
        return read(given[key].text(key))
    except MergeError as error:
        raise given[key].fail(f"{key}: {error}") from error
