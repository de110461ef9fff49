"""Ways to search for coefficients; one file each, one line each in the table."""

from __future__ import annotations

from adapt.merging.proposals.base import Point, Proposals
from adapt.merging.proposals.cma import Cma
from adapt.merging.proposals.grid import Grid
from adapt.merging.proposals.random import Random
from adapt.merging.proposals.tpe import Tpe

PROPOSALS: dict[str, type[Proposals]] = {kind.name: kind for kind in (Grid, Random, Tpe, Cma)}

__all__ = ["PROPOSALS", "Point", "Proposals"]
