"""Whether the arguments of a call fit the schema of its tool, for tools with `strict: true`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}


def asked(tools: Sequence[Any], name: str, arguments: Any) -> bool:
    """Return whether a call is one that its tool allows: any, unless the tool is strict.

    Args:
        tools: shown to the model.
        name: of the function that is called.
        arguments: of the call.
    """
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name and function.get("strict"):
            schema = function.get("parameters") or {}
            try:
                return fits(arguments, schema, schema)
            except RecursionError:
                # References in a circle allow nothing.
                return False
    return True


def fits(value: Any, schema: Any, whole: Mapping[str, Any]) -> bool:
    """Return whether a value fits a JSON Schema: types, `enum`, `const`, `anyOf`, `properties`,
    `required`, `additionalProperties`, `items` and `$ref` into the same schema; other keywords hold
    nothing.

    Args:
        value: decoded from JSON.
        schema: for it.
        whole: the schema that `$ref` points into.
    """
    if not isinstance(schema, dict):
        return schema is not False
    if isinstance(reference := schema.get("$ref"), str):
        return fits(value, _found(reference, whole), whole)
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    known = [_TYPES[each] for each in types if each in _TYPES]
    if known and not any(holds(value) for holds in known):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices and not any(fits(value, each, whole) for each in choices):
        return False
    if isinstance(value, list):
        return all(fits(each, schema.get("items", True), whole) for each in value)
    return not isinstance(value, dict) or _object_fits(value, schema, whole)


def _object_fits(value: dict[str, Any], schema: dict[str, Any], whole: Mapping[str, Any]) -> bool:
    known, others = schema.get("properties") or {}, schema.get("additionalProperties", True)
    return set(schema.get("required") or ()) <= value.keys() and all(
        fits(each, known.get(name, others), whole) for name, each in value.items()
    )


def _found(reference: str, whole: Mapping[str, Any]) -> Any:
    """The schema that a reference such as `#/$defs/port` names; one that it does not find allows
    nothing."""
    found: Any = whole
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part, False) if isinstance(found, dict) else False
    return found
