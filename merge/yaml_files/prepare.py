"""A merge file, checked and planned: every tensor and every row of the output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from merge.adapters import AdapterVector, check_used
from merge.checkpoint import Checkpoint
from merge.formula import Combination, Formula, Leaf
from merge.planning import Merge, Part, tensor_of
from merge.policy import rope_warnings
from merge.roles import Roles, Vector
from merge.tying import heads_given, heads_of
from merge.vocabulary import RowPlan, Vocabulary, read_vocabulary
from merge.writer import Output
from merge.yaml_files.document import Entry, read_yaml
from merge.yaml_files.expression_form import prepare_expression
from merge.yaml_files.fills import Fill, Filled, fill_of
from merge.yaml_files.formulas import base_of, check_filters, formula_of
from merge.yaml_files.layers import Piece, pieces
from merge.yaml_files.references import Reference, open_adapter, open_checkpoint
from merge.yaml_files.rows import by_index, by_token, output_tokens
from merge.yaml_files.schema import ELSEWHERE, MergeFile, read_merge_file
from merge.yaml_files.settings_files import beside


@dataclass(frozen=True)
class _Opened:
    """What a file refers to: checkpoints by place, in the order of the file with the base first, and adapters.

    `used` are the checkpoints that the formulas read or the configuration comes from; `all` has the tokenizer's, too.
    """

    references: tuple[Reference, ...]
    used: dict[str, Checkpoint]
    all: dict[str, Checkpoint]
    adapters: dict[str, AdapterVector]
    vocabularies: dict[str, Vocabulary]

    @property
    def anchor(self) -> Checkpoint:
        """The base, else the first model of the file."""
        return next(iter(self.used.values()))


def prepare_yaml(path: Path, seed: int = 0) -> Merge:
    """Check a merge file, of mergekit or with an expression, and plan its merge; `seed` is that of random methods.

    Results are those of mergekit to the rounding of the output's type, but for what the methods say of themselves and
    that everything is computed in float32. Raises MergeError with one line: for mistakes with the file's line.
    """
    documents = read_yaml(path)
    if len(documents) != 1:
        raise Entry(None, path, 1).fail(f"the file holds {len(documents)} documents, one is read{ELSEWHERE}")
    root, text = documents[0], path.read_text(encoding="utf-8")
    if "expression" in root.mapping("the file"):
        return prepare_expression(root, text)
    return plan(read_merge_file(root, path, text), seed)


def plan(file: MergeFile, seed: int = 0) -> Merge:
    """Open the models of a file and plan every tensor and every row."""
    opened = _open(file)
    anchor, used = opened.anchor, opened.used
    found = pieces(file, anchor, used, heads_of(used.values(), opened.adapters.values()))
    rows, tokenizer = _rows(file, opened)
    fills = _fills(file, opened, rows, found) if file.tokenizer else {}
    formulas = {reference.name: reference.formula for reference in opened.references}
    places = {reference.name: reference.place for reference in opened.references}
    keys = {reference.name: _key(reference) for reference in opened.references} if fills else {}
    filled = {key: Filled(name, fills, formulas, places, opened.adapters) for name, key in keys.items()}
    by_rows = {name: Leaf(key) for name, key in keys.items()}
    parts = dict(_parts(file, opened, found, formulas, by_rows, fills, seed))
    if not file.cut:
        check_used(opened.adapters.values(), {name: part.names for name, part in parts.items()})
    files, said = beside(file, anchor, tokenizer, opened.all, opened.vocabularies, set(rows.tokens))
    said = [*heads_given(opened.adapters.values()), *said]
    warnings = [*file.warnings, *check_filters(file, found), *_warnings(opened, rows), *said]
    return Merge(
        _combination(file, opened),
        parts,
        opened.all,
        opened.vocabularies,
        Roles(anchor.name, None, tuple(_vectors(file, anchor.name))),
        rows,
        tuple(_outputs(file, found, used, rows)),
        tuple(dict.fromkeys(warnings)),
        opened.adapters,
        files,
        filled,
    )


def _open(file: MergeFile) -> _Opened:
    entries = dict(reversed([(reference, entry) for reference, entry in file.models()]))
    references = tuple(dict.fromkeys(reference for reference, _ in file.models()))
    used: dict[str, Checkpoint] = {}
    for reference in references:
        if reference.place not in used:
            used[reference.place] = open_checkpoint(reference.place, entries[reference])
    adapters = {
        reference.name: open_adapter(reference, used[reference.place], entries[reference])
        for reference in references
        if reference.adapter is not None
    }
    every = dict(used)
    if file.tokenizer and isinstance(file.tokenizer.source, Reference):
        place = file.tokenizer.source.place
        if place not in every:
            every[place] = open_checkpoint(place, file.tokenizer.entry)
    vocabularies = {place: read_vocabulary(model.folder, place) for place, model in every.items()}
    return _Opened(references, used, every, adapters, vocabularies)


def _rows(file: MergeFile, opened: _Opened) -> tuple[RowPlan, str]:
    """The rows of the output, and the model whose tokenizer it has."""
    anchor, rule = opened.anchor.name, file.tokenizer
    used = {place: opened.vocabularies[place] for place in opened.used}
    if rule is None:
        return by_index(anchor, opened.used, used, file.slices[0].entry), anchor
    owner = rule.source.place if isinstance(rule.source, Reference) else anchor if rule.source == "base" else None
    tokens = output_tokens(rule, owner, used if owner is None else opened.vocabularies)
    return by_token(tokens, rule.multiple, opened.used, used), tokens.owner


def _fills(file: MergeFile, opened: _Opened, rows: RowPlan, found: Iterable[Piece]) -> dict[str, Fill]:
    assert file.tokenizer is not None
    heights = {place: model.height for place, model in opened.used.items()}
    return {
        piece.name: fill_of(
            [source.model for source in piece.part.sources],
            piece.part.base,
            rows.sources,
            rows.tokens,
            file.tokenizer.tokens,
            opened.vocabularies,
            heights,
        )
        for piece in found
        if opened.anchor.is_vocabulary(piece.name)
    }


def _key(reference: Reference) -> str:
    """What a formula calls a model whose rows are filled; an adapter's name already stands for the adapter."""
    return reference.name if reference.adapter is None else f"{reference.name} (rows)"


def _parts(
    file: MergeFile,
    opened: _Opened,
    found: Iterable[Piece],
    formulas: Mapping[str, Formula],
    by_rows: Mapping[str, Formula],
    fills: Mapping[str, Fill],
    seed: int,
) -> Iterator[tuple[str, Part]]:
    for piece in found:
        formula = formula_of(piece, file, by_rows if piece.name in fills else formulas, seed)
        names = {source.model.place: name for source, name in zip(piece.part.sources, piece.names, strict=True)}
        if opened.anchor.is_vocabulary(piece.name):
            names = {place: tensor_of(model, piece.name) for place, model in opened.used.items()}
        yield piece.name, Part(formula, piece.place, names)


def _outputs(
    file: MergeFile, found: Iterable[Piece], used: Mapping[str, Checkpoint], rows: RowPlan
) -> Iterator[Output]:
    for piece in found:
        model = used[(base_of(piece.part, file.method) or piece.part.sources[0]).model.place]
        index = [source.model.place for source in piece.part.sources].index(model.name)
        info = model.tensors[piece.names[index]]
        dtype = file.dtype if file.dtype is not None and info.dtype.is_floating_point else info.dtype
        shape = (rows.height, *info.shape[1:]) if model.is_vocabulary(piece.name) else info.shape
        yield Output(piece.name, dtype, shape)


def _vectors(file: MergeFile, anchor: str) -> Iterator[Vector]:
    """What is set against what: models against their base, or where there is none against the anchor."""
    for part in file.slices:
        base = base_of(part, file.method)
        for source in part.sources:
            reference = base.model.place if base else anchor
            alone = file.method.name == "passthrough"
            yield Vector(1.0, source.model.place, source.model.place if alone else reference)


def _combination(file: MergeFile, opened: _Opened) -> Combination:
    names = tuple(reference.name for reference in opened.references)
    text = f"{file.method.name} of {', '.join(names)} ({file.path.name})"
    return Combination(text, {}, file.method.base == "required", names, frozenset(opened.adapters))


def _warnings(opened: _Opened, rows: RowPlan) -> Iterator[str]:
    for model in opened.used.values():
        yield from rope_warnings(opened.anchor, model)
    for name, count in rows.counts["dropped"].items():
        yield f"{count} tokens of '{name}' are lost, the output does not have them"
    if rows.counts.get("nowhere"):
        yield f"{rows.counts['nowhere']} tokens of the output are in no model: their rows are zero"
