"""The JSON Schema of recipes, for editors that complete keys and show their descriptions.

# yaml-language-server: $schema=recipe.schema.json
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from adapt.recipe.schema import Recipe

NUMBER = r"^[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?(%|[kMGB])?$"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Adds the short forms that our before-validators read: `2M`, `full` for `{kind: full}`, `x` for `[x]`."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        if "json_schema_input_schema" in schema:
            return inner  # it says itself what it reads
        function = schema["function"]["function"]
        try:
            read = function("1")  # what the validator makes of text says which short form there is
        except (TypeError, ValueError):
            return inner
        if isinstance(read, (int, float)):
            return {"anyOf": [inner, {"type": "string", "pattern": NUMBER}]}
        if isinstance(read, Mapping):
            return {"anyOf": [inner, _names(schema["schema"])]}
        return {"anyOf": [inner, {"type": "string"}]} if isinstance(read, (list, tuple)) else inner


def _names(schema: Any) -> JsonSchemaValue:
    """Text that names a member of a tagged union; any text where there is no union."""
    while schema["type"] == "default":
        schema = schema["schema"]
    if schema["type"] == "tagged-union":
        return {"type": "string", "enum": list(schema["choices"])}
    return {"type": "string"}


def _bounded(schema: Any) -> Any:
    """Put bounds, which pydantic leaves outside of the alternatives under its own names, where they apply."""
    if isinstance(schema, list):
        return [_bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _bounded(value) for key, value in schema.items()}
    if "anyOf" not in schema or not set(schema) & set(_BOUNDS):
        return schema
    bounds = {name: schema.pop(own) for own, name in _BOUNDS.items() if own in schema}
    numbers = [option | bounds if option.get("type") in ("integer", "number") else option for option in schema["anyOf"]]
    return schema | {"anyOf": numbers}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, with the descriptions of all fields."""
    return {"$schema": _DIALECT} | _bounded(Recipe.model_json_schema(schema_generator=_Generator))
