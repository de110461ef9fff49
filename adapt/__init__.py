"""Adapt an open-weights language model to a language or a domain: one recipe from vocabulary to checkpoint.

import adapt

loaded = adapt.load_recipe("recipes/lang.yaml", ["stages.cpt.tokens=100k"])
finished = adapt.run(loaded)
print(finished.report)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AdaptError",
    "RecipeError",
    "__version__",
    "evaluate",
    "grow_for_adapter",
    "inspect_vocabulary",
    "load_adapter",
    "load_any",
    "load_for_training",
    "load_mixture",
    "load_recipe",
    "plan",
    "quiet",
    "run",
    "search_merge",
]

if TYPE_CHECKING:
    from adapt.display import quiet
    from adapt.errors import AdaptError, RecipeError
    from adapt.evaluating import evaluate
    from adapt.loading import load_any
    from adapt.merging.coefficients import search_merge
    from adapt.methods.adapter import grow_for_adapter, load_adapter
    from adapt.methods.own_loop import load_for_training
    from adapt.mixture.folder import load_mixture
    from adapt.recipe import load as load_recipe
    from adapt.recipe import run
    from adapt.recipe.planning import plan
    from adapt.vocabulary.from_files import inspect_vocabulary

_PLACES = {
    "AdaptError": ("adapt.errors", "AdaptError"),
    "RecipeError": ("adapt.errors", "RecipeError"),
    "evaluate": ("adapt.evaluating", "evaluate"),
    "grow_for_adapter": ("adapt.methods.adapter", "grow_for_adapter"),
    "inspect_vocabulary": ("adapt.vocabulary.from_files", "inspect_vocabulary"),
    "load_adapter": ("adapt.methods.adapter", "load_adapter"),
    "load_any": ("adapt.loading", "load_any"),
    "load_for_training": ("adapt.methods.own_loop", "load_for_training"),
    "load_mixture": ("adapt.mixture.folder", "load_mixture"),
    "load_recipe": ("adapt.recipe", "load"),
    "plan": ("adapt.recipe.planning", "plan"),
    "quiet": ("adapt.display", "quiet"),
    "run": ("adapt.recipe", "run"),
    "search_merge": ("adapt.merging.coefficients", "search_merge"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that importing one room does not import all."""
    if name not in _PLACES:
        raise AttributeError(f"module 'adapt' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
