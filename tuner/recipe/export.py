"""The recipe's section `export`: what is written at the end of a run.

An item of `formats` is a name in FORMATS, or a mapping with that name as its only key: to a type
(`{gguf: q4_k_m}`, which is the name `gguf-q4_k_m`), or to options (`{nf4: {max_kl: 0.3}}`). It is
kept as the name, or as {name: options} where it has any.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, WithJsonSchema

from tuner.recipe.formats import FORMATS, GGUF, canonical
from tuner.schema.fields import Flag, Positive, Section, Text, own_words
from tuner.schema.suggest import suggestion

AUTO = "auto"
Item = str | dict[str, dict[str, Any]]
_TYPES = tuple(row.llama_type for row in FORMATS.values() if row.llama_type)
_EXAMPLE = "expected a name, or a mapping with one key: {gguf: q4_k_m} or {nf4: {max_kl: 0.3}}"


class FormatOptions(Section):
    """Options of one format."""

    type: Annotated[Text | None, Field(description="GGUF type: q4_k_m, q8_0, ...")] = None
    max_kl: Annotated[
        Positive | None,
        Field(description="largest mean KL to the tuned model, instead of the format's limit"),
    ] = None
    portable: Annotated[
        Flag,
        Field(
            description="adapter: write rsLoRA as plain LoRA, for runtimes that ignore use_rslora"
        ),
    ] = False


def _read(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        value = [value]
    items = [_item(item) for item in value]
    names = [name_of(item) for item in items]
    for name in names:
        if names.count(name) > 1:
            raise own_words(f"{name} is listed twice")
    return tuple(items)


def _item(value: Any) -> Item:
    if isinstance(value, str):
        return _known(str(value))
    if not isinstance(value, dict) or len(value) != 1:
        raise own_words(_EXAMPLE)
    ((name, given),) = value.items()
    if isinstance(given, str):
        given = {"type": given}
    if not isinstance(given, dict):
        raise own_words(f"{name}: expected a type or options; {_EXAMPLE}")
    options = _options(name, given)
    if kind := options.pop("type", None):
        if name != GGUF:
            raise own_words(f"{name} takes no type, only {GGUF} does; write just the name")
        if kind.lower() not in _TYPES:
            raise own_words(f"no GGUF type '{kind}'; {suggestion(kind, _TYPES)}")
        name = f"{GGUF}-{kind}"
    name = _known(name)
    if options:
        _refuse_options(name, options)
        return {name: options}
    return name


def _refuse_options(name: str, options: dict[str, Any]) -> None:
    if name == AUTO:
        raise own_words(f"{AUTO} takes no options; name the format")
    refused = options.keys() - _keys(name)
    if "max_kl" in refused:
        raise own_words(f"{name} stores the exact trained weights; max_kl is for the other formats")
    if "portable" in refused:
        raise own_words(f"portable is an option of adapter, not of {name}")


def _keys(name: str) -> list[str]:
    """Return the options that a format takes."""
    return [
        *(["type"] if name == GGUF else []),
        *(["max_kl"] if not FORMATS[name].exact or name == "merged" else []),
        *(["portable"] if name == "adapter" else []),
    ]


def _options(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults."""
    try:
        return FormatOptions.model_validate(given).model_dump(exclude_defaults=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            said = f"no option '{key}'; {suggestion(key, FormatOptions.model_fields)}"
        else:
            said = (
                f"{key}: '{given[key]}' is not valid; {FormatOptions.model_fields[key].description}"
            )
        raise own_words(f"{name}: {said}") from None


def _known(name: str) -> str:
    name = canonical(name)
    if name not in FORMATS and name != AUTO:
        raise own_words(f"no format '{name}'; {suggestion(name, [*FORMATS, AUTO])}")
    return name


def name_of(item: Item) -> str:
    """Return the format of an item."""
    return item if isinstance(item, str) else next(iter(item))


def _schema() -> dict[str, Any]:
    """Return the schema for editors: every name, and the keys that each mapping may have."""
    options: dict[str, dict[str, Any]] = {
        "type": {"enum": list(_TYPES)},
        "max_kl": {"type": "number", "exclusiveMinimum": 0},
        "portable": {"type": "boolean"},
    }
    for key, schema in options.items():
        schema["description"] = FormatOptions.model_fields[key].description

    def allowed(name: str) -> dict[str, Any]:
        chosen = {key: options[key] for key in _keys(name)}
        own = {"type": "object", "additionalProperties": False, "properties": chosen}
        return {"anyOf": [options["type"], own]} if name == GGUF else own

    mapping = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {name: allowed(name) for name in FORMATS if name != "virtual_tokens"},
    }
    word = {"type": "string", "enum": [*FORMATS, f"{GGUF}-f16", AUTO]}
    item = {"anyOf": [word, mapping]}
    return {"anyOf": [*item["anyOf"], {"type": "array", "items": item}]}


class ExportSection(Section):
    """What is written at the end of a run, each checked in a fresh process."""

    formats: Annotated[
        tuple[Item, ...],
        BeforeValidator(_read),
        PlainSerializer(list, return_type=list[Any]),
        WithJsonSchema(_schema()),
        Field(
            description="any of `tuner export --formats`, each a name or {name: type or options}, "
            "as in [adapter, merged, {gguf: q4_k_m}, {nf4: {max_kl: 0.3}}]; auto: adapter, "
            "virtual_tokens and merged, if the method supports them"
        ),
    ] = (AUTO,)
    onto: Annotated[
        Literal["auto", "dequantized", "original"],
        Field(
            description="base weights to merge a quantized base's adapter into; auto: those "
            "closer to the tuned model"
        ),
    ] = "auto"

    @property
    def names(self) -> tuple[str, ...]:
        """The formats without their options; `auto` may be among them."""
        return tuple(map(name_of, self.formats))

    def options(self, name: str) -> dict[str, Any]:
        """Return the options that the recipe gives a format."""
        found = next((item for item in self.formats if name_of(item) == name), name)
        return {} if isinstance(found, str) else found[name]
