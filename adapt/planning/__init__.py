"""Memory, time and disk of a recipe before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.planning.recipe import RecipePlan, StagePlan

__all__ = ["RecipePlan", "StagePlan"]


def __getattr__(name: str) -> Any:
    """The planner loads torch; naming its results does not."""
    if name not in __all__:
        raise AttributeError(f"module 'adapt.planning' has no attribute '{name}'")
    from adapt.planning import recipe

    return getattr(recipe, name)
