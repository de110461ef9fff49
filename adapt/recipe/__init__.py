"""What a person may write: the strict schema, loading, and errors with file, line and column."""

from adapt.recipe.compose import graph_of
from adapt.recipe.load import LoadedRecipe, load, load_text
from adapt.recipe.running import Finished, run
from adapt.recipe.schema import ModelSettings, Recipe

__all__ = ["Finished", "LoadedRecipe", "ModelSettings", "Recipe", "graph_of", "load", "load_text", "run"]
