"""How a file names a model: `folder`, `hub/id`, `hub/id@revision`, each with an adapter behind a plus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from merge.adapters import Adapter, AdapterVector, is_adapter, vector_on
from merge.checkpoint import Checkpoint
from merge.errors import MergeError
from merge.formula import Difference, Formula, Leaf, Linear
from merge.locations import folder_of
from merge.yaml_files.document import Entry


@dataclass(frozen=True)
class Reference:
    """A model of a file: where it lies, and where the adapter lies that is added to it."""

    place: str
    adapter: str | None = None

    @property
    def name(self) -> str:
        """As the file writes it."""
        return self.place if self.adapter is None else f"{self.place}+{self.adapter}"

    @property
    def formula(self) -> Formula:
        """The model: its checkpoint, with the adapter's update."""
        model = Leaf(self.place)
        return model if self.adapter is None else Linear(model, (Difference(1.0, Leaf(self.name), None),))


def read_reference(entry: Entry, what: str) -> Reference:
    """The model that an entry names. A folder that there is may have a plus in its name.

    Raises YamlError for anything but text, and for more than one adapter.
    """
    if isinstance(entry.value, dict):
        raise entry.fail(f"{what} is a mapping; write it as text: folder, hub/id@revision or folder+adapter")
    text = entry.text(what)
    place, plus, adapter = text.partition("+")
    if not plus or Path(text).is_dir():
        return Reference(text)
    if not place or not adapter or "+" in adapter:
        raise entry.fail(f"{what} is '{text}'; it has the form model or model+adapter")
    return Reference(place, adapter)


def open_checkpoint(place: str, entry: Entry) -> Checkpoint:
    """The checkpoint at a place. Raises YamlError, with the line that names it."""
    try:
        folder = folder_of(place)
        if is_adapter(folder):
            raise MergeError(f"'{place}' is an adapter; write the model that it changes before it: model+{place}")
        return Checkpoint(place, folder)
    except MergeError as error:
        raise entry.fail(str(error)) from error


def open_adapter(reference: Reference, model: Checkpoint, entry: Entry) -> AdapterVector:
    """The adapter of a reference, checked against its model. Raises YamlError, with the line that names it."""
    assert reference.adapter is not None
    try:
        folder = folder_of(reference.adapter)
        if not is_adapter(folder):
            raise MergeError(f"'{reference.adapter}' is no adapter: it has no adapter_config.json")
        return vector_on(Adapter(reference.name, folder), model)
    except MergeError as error:
        raise entry.fail(str(error)) from error
