"""Messages for the problems of a recipe: where, which key, what was expected."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tuner.methods import METHODS
from tuner.recipe import history
from tuner.recipe.other_tools import answer as other_tools
from tuner.recipe.schema import Recipe, keys_of, models_in, sections
from tuner.recipe.schema_source import TAGS, SourceSection
from tuner.recipe.source import RecipeSource
from tuner.rewards.options import OPTIONS, options_of
from tuner.schema.strict_yaml import Path
from tuner.schema.suggest import listed, nearest, suggestion

_SCALARS = (str, int, float, bool)


def explain(error: ValidationError, tree: dict[str, Any], source: RecipeSource) -> list[str]:
    """Return one line for every problem that pydantic found, in the order of the file."""
    found: dict[Path, str] = {}
    for item in error.errors(include_url=False):
        path = _as_written(_without_tag(item["loc"]), tree)
        if item["type"] not in ("extra_forbidden", "missing"):
            path = _existing(path, tree)
        if item["type"] == "union_tag_invalid":
            path = ("method", "name")
        if item["type"] == "own_words" and item["ctx"]["key"]:
            path = (*path, item["ctx"]["key"])
        # Pydantic reports a list with a wrong item, too; one line is enough.
        if not any(known[: len(path)] == path for known in found):
            found[path] = f"{source.place(path)}: {_dotted(path)}: {_message(item, path, tree)}"
    return [found[path] for path in sorted(found, key=source.line)]


def _message(item: Any, path: Path, tree: dict[str, Any]) -> str:
    kind = item["type"]
    info = field_at(path, tree)
    if said := _of_others(kind, path, tree):
        return said
    if kind == "own_words":
        return str(item["ctx"]["said"])
    if kind == "extra_forbidden":
        return _unknown_key(path, tree)
    if kind == "union_tag_invalid":
        name = _method_name(tree)
        return f"no method '{name}'; {suggestion(name, METHODS)}"
    if path == ("method",):
        return f"expected keys such as {{name: lora}}, {_shown(tree['method'])}"
    if kind == "missing":
        what = f" ({info.description})" if info and info.description else ""
        return f"is missing{what}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "value_error" and not _phrased(info, len(path)):
        return str(item["ctx"]["error"])
    expected = describe(info.annotation, info.metadata) if info else "something else"
    inside = len(path) > 2 and field_at(path[:-1], tree) is info
    if info and inside and get_origin(info.annotation) in (tuple, dict):
        expected = _item(info.annotation)
    return f"expected {expected}, {_shown(_value_at(path, tree))}"


def _of_others(kind: str, path: Path, tree: dict[str, Any]) -> str | None:
    """Return the message for what an earlier version has, or another tool; None: neither has it."""
    value = None if kind == "missing" else _value_at(path, tree)
    said = None
    if kind in ("extra_forbidden", "literal_error"):
        said = history.answer(path, value)
    if said is None and kind not in ("extra_forbidden", "missing"):
        said = other_tools.value(_dotted(path), value)
    return said


def _unknown_key(path: Path, tree: dict[str, Any]) -> str:
    word = str(path[-1])
    plain = word.replace("-", "_")
    value, others = _value_at(path, tree), _value_at(path[:-1], tree)
    homes = [name for name in sections() if plain in keys_of(name)]
    if len(path) == 1:
        if homes:
            meant = other_tools.value(f"{homes[0]}.{plain}", value)
            rest = f", and {meant}" if meant else ""
            return f"unknown section; the key belongs under {' or '.join(homes)}{rest}"
        said = other_tools.key(word, value, others)
        return f"unknown section; {said or suggestion(word, sections())}"
    if len(path) > 2:
        model = _model_of(field_at(path[:-1], tree), others)
        owners = [tag for tag, options in OPTIONS.items() if plain in options.model_fields]
        reward = next((tag for tag, options in OPTIONS.items() if options is model), None)
        if reward and owners and reward not in owners:
            return f"{reward} has no such key; {listed(owners)} {_has(owners)} it"
        said = other_tools.in_source(word, value) if model is SourceSection else None
        return f"unknown key; {said or suggestion(word, model.model_fields if model else [])}"
    section, method = str(path[0]), _method_name(tree)
    own = keys_of(section, method)
    if plain in own:
        return f"unknown key; did you mean '{plain}'"
    if not homes and (said := other_tools.key(word, value, others)):
        return f"unknown key; {said}"
    if section == "method":
        owners = [row.name for row in METHODS.values() if plain in row.options.model_fields]
        if owners:
            near = nearest(word, own)
            here = f"; the nearest option of {method} is '{near}'" if near else ""
            return f"not an option of {method}; {listed(owners)} {_has(owners)} it{here}"
    if homes:
        return f"unknown key; it belongs under {' or '.join(homes)}"
    return f"unknown key; {suggestion(word, own)}"


def field_at(path: Path, tree: dict[str, Any]) -> FieldInfo | None:
    """Return the schema's field that a path of the tree leads to or into; None if there is none."""
    if not path or path[0] not in Recipe.model_fields:
        return None
    info: FieldInfo | None = Recipe.model_fields[str(path[0])]
    if len(path) > 1:
        info = keys_of(str(path[0]), _method_name(tree)).get(str(path[1]))
    for depth, name in enumerate(path[2:], start=2):
        if isinstance(name, int):
            continue
        model = _model_of(info, _value_at(path[:depth], tree))
        if model is None:
            return info
        info = model.model_fields.get(name)
    return info


def _model_of(info: FieldInfo | None, value: Any) -> type[BaseModel] | None:
    """Return the section model for a key's value, or for an item of its list."""
    models = list(models_in(info.annotation)) if info else []
    # Only rewards have several.
    return options_of(value) if len(models) > 1 else next(iter(models), None)


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Describe what a key takes: `a whole number, 1 or more, or auto`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return describe(inner, [*_expanded(more), *metadata])
    if origin is Literal:
        values = [str(value) for value in get_args(annotation)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if origin in (Union, types.UnionType):
        parts = [describe(part, metadata) for part in get_args(annotation)]
        return ", or ".join(dict.fromkeys(parts))
    if annotation is types.NoneType:
        return "null"
    if annotation is bool:
        return "true or false"
    if annotation is str:
        return "text"
    if annotation in (int, float):
        noun = "a whole number" if annotation is int else "a number"
        ranges = _ranges(metadata)
        return f"{noun}, {' and '.join(ranges)}" if ranges else noun
    if origin is tuple:
        item = _item(annotation)
        if item == "text, or a mapping":
            return "a word, a mapping or a list of these"
        listed = list(models_in(annotation)) or item == "a mapping"
        return "a list" if listed else "a word or a list of words"
    return "a mapping"


def _item(annotation: Any) -> str:
    """Describe what one element of a list or mapping takes."""
    arguments = [item for item in get_args(annotation) if item is not Ellipsis]
    return describe(arguments[-1])


def _ranges(metadata: Sequence[Any]) -> list[str]:
    words = {"ge": "{} or more", "gt": "above {}", "le": "{} or less", "lt": "below {}"}
    return [
        text.format(getattr(rule, name))
        for name, text in words.items()
        for rule in _expanded(metadata)
        if getattr(rule, name, None) is not None
    ]


def _expanded(metadata: Iterable[Any]) -> list[Any]:
    return [
        rule
        for item in metadata
        for rule in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]


def _phrased(info: FieldInfo | None, depth: int) -> bool:
    """Return whether the schema describes it better than the type's reader: not for mixed types."""
    if info is None:
        return False
    if depth > 2:
        return True
    parts = list(_parts(info.annotation))
    return len(parts) < 2 or sum(part in _SCALARS for part in parts) < 2


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, those of its members' too."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _without_tag(location: tuple[int | str, ...]) -> Path:
    if len(location) > 1 and location[0] == "method" and location[1] in METHODS:
        return (location[0], *location[2:])
    return tuple(name for name in location if name not in (*OPTIONS, *TAGS))


def _as_written(path: Path, tree: Any) -> Path:
    """Return the path without the place in a list where the tree has one mapping instead of it."""
    kept: list[int | str] = []
    for name in path:
        if isinstance(name, int) and isinstance(tree, dict):
            continue
        kept.append(name)
        there = isinstance(tree, dict) or (isinstance(tree, list) and name in range(len(tree)))
        tree = (tree.get(name) if isinstance(tree, dict) else tree[name]) if there else None
    return tuple(kept)


def _existing(path: Path, tree: Any) -> Path:
    """Return the path without what pydantic adds: branches of a union, names of validators."""
    for end, name in enumerate(path):
        known = (isinstance(tree, dict) and name in tree) or (
            isinstance(tree, list) and isinstance(name, int) and name < len(tree)
        )
        if not known:
            return path[:end]
        tree = tree[name]
    return path


def _value_at(path: Path, tree: Any) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _method_name(tree: dict[str, Any]) -> str:
    method = tree.get("method")
    return str(method.get("name", "lora")) if isinstance(method, dict) else "lora"


def _dotted(path: Path) -> str:
    return ".".join(str(name) for name in path) or "recipe"


def _shown(value: Any) -> str:
    if value is None:
        return "not an empty value"
    if isinstance(value, dict | list):
        return "not a mapping" if isinstance(value, dict) else "not a list"
    text = str(value)
    return f"not '{text if len(text) <= 60 else text[:57] + '...'}'"


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
