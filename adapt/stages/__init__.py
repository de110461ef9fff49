"""The kinds of stage; adding one is a file and a line in the table."""

from __future__ import annotations

from typing import Annotated, Union

from pydantic import Field

from adapt.stages.create_model import CreateModel
from adapt.stages.evaluate import Evaluate
from adapt.stages.expand_vocabulary import ExpandVocabulary
from adapt.stages.export import Export
from adapt.stages.merge import Merge
from adapt.stages.train import Train

STAGES = (CreateModel, ExpandVocabulary, Train, Merge, Export, Evaluate)
AnyStage = Annotated[Union[STAGES], Field(discriminator="kind")]  # noqa: UP007 (a table, not a list of names)

__all__ = ["STAGES", "AnyStage"]
