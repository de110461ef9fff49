"""A recipe as text again: every default filled in, and the plan of its stages."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from adapt.display import Display
from adapt.errors import AdaptError
from adapt.pipeline import StageStatus, status
from adapt.recipe.compose import graph_of
from adapt.recipe.document import IMPLICIT
from adapt.recipe.load import LoadedRecipe
from adapt.recipe.schema import Recipe

_WIDTH = 100


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would not read as text, and writes short lists and mappings on one line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = _short([part for pair in node.value for part in pair])
        return node

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Node:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = _short(node.value)
        return node

    def represent(self, data: Any) -> None:
        node = self.represent_data(data)
        if not isinstance(node, ScalarNode):
            node.flow_style = False
        self.serialize(node)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _short(nodes: list[Node]) -> bool:
    scalars = [node for node in nodes if isinstance(node, ScalarNode)]
    return len(scalars) == len(nodes) and sum(len(node.value) + 2 for node in scalars) < 60


def _text(dumper: _Dumper, value: str) -> ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
for _tag, _pattern, _first in IMPLICIT:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def to_yaml(value: Any) -> str:
    """Plain values as YAML that this toolkit and others read back as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


def resolved(recipe: Recipe) -> str:
    """The recipe with all defaults; loading this text gives the same recipe."""
    plain = recipe.model_dump(mode="json", by_alias=True, warnings=False)
    return to_yaml({**plain, "stages": {name: _kind_first(stage) for name, stage in plain["stages"].items()}})


def _kind_first(settings: Any) -> Any:
    """Settings inherit common keys, but a person first wants to know what they are about."""
    if not isinstance(settings, dict):
        return settings
    ordered = {"kind": settings["kind"], **settings} if "kind" in settings else settings
    return {key: _kind_first(value) for key, value in ordered.items()}


def show_plan(loaded: LoadedRecipe, display: Display) -> None:
    """Print one row per stage: what it reads, whether it is done, and its folder."""
    stages = loaded.recipe.stages
    states, trouble = _states(loaded)
    rows = []
    for name, stage in stages.items():
        reads = stage.reads()
        names = dict.fromkeys(reference.name for reference in (*reads.models, *reads.sources))
        state, folder = states.get(name, ("", ""))
        rows.append([name, getattr(stage, "kind", ""), ", ".join(names), state, folder])
    display.table("plan", ("stage", "kind", "reads", "state", "folder"), rows)
    if trouble:
        display.line(f"what is done cannot be told: {trouble}")


def _states(loaded: LoadedRecipe) -> tuple[dict[str, tuple[str, str]], str]:
    """State and folder by stage, or why they cannot be told."""
    try:
        found = status(graph_of(loaded))
    except AdaptError as error:
        return {}, str(error)
    return {stage.name: (_state(stage), str(stage.folder or stage.reason)) for stage in found}, ""


def _state(stage: StageStatus) -> str:
    if stage.state == "missing":
        return f"to do ({stage.reason})" if stage.reason.startswith("changed") else "to do"
    return "done" if stage.state == "done" else "unfinished"
