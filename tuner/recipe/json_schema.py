"""The JSON Schema of a recipe."""

from __future__ import annotations

from typing import Any

from tuner.recipe.schema import Recipe


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors, with a description of every key."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for model in schema["$defs"].values():
        for name, key in model.get("properties", {}).items():
            model["properties"][name] = _or_one_word(key)
    method = {"oneOf": schema["properties"]["method"]["oneOf"]}
    schema["$defs"]["CompareSection"]["properties"]["methods"]["items"] = method
    return schema


def _or_one_word(key: dict[str, Any]) -> dict[str, Any]:
    """Allow a list of words, or of words and mappings, to be written as its only item."""
    one = key.get("items", {})
    forms = one.get("oneOf", [one])
    if {"type": "string"} not in [{"type": form.get("type")} for form in forms]:
        return key
    listed = {name: key[name] for name in ("type", "items", "minItems") if name in key}
    rest = {name: value for name, value in key.items() if name not in listed}
    if len(forms) > 1:
        listed["items"] = {"anyOf": forms}
    return {**rest, "anyOf": [*({"type": "string"} if f.get("type") else f for f in forms), listed]}
