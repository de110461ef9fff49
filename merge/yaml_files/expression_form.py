"""Our own form of a merge file: an expression and where its models lie.

expression: cpt + 0.8 * (instruct - base)
models: {cpt: runs/cpt, instruct: Qwen/Qwen3-8B, base: Qwen/Qwen3-8B-Base}
dtype: bfloat16
"""

from __future__ import annotations

from dataclasses import replace

from merge.errors import ExpressionError, MergeError
from merge.formula import names_in
from merge.locations import folders_of
from merge.planning import Merge, dtype_of, prepare
from merge.yaml_files.document import Entry

FILE = "merge.yaml"
"""The name under which a merged folder keeps the file that it comes from."""
_KEYS = ("expression", "models", "dtype", "vocabulary_from", "special_from")


def prepare_expression(root: Entry, text: str) -> Merge:
    """The merge that the file describes. Raises YamlError, with the line, for a mistake in it."""
    given = root.fields("the file", _KEYS, ("expression", "models"))
    places = {name: entry.text(name) for name, entry in given["models"].mapping("models").items()}
    roles = {key: given[key].text(key) if key in given else None for key in ("vocabulary_from", "special_from")}
    expression = given["expression"].text("expression")
    try:
        dtype = dtype_of(given["dtype"].text("dtype")) if "dtype" in given else None
    except MergeError as error:
        raise given["dtype"].fail(f"dtype: {error}") from error
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
    return replace(merge, beside=replace(merge.beside, files={FILE: text}))
