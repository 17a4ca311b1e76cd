"""The items of `data.train`, and `data.eval`: a file, or a mapping with what is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)

from tuner.schema.fields import FILE, Count, Flag, PathOrAmount, Section, Text, Words, own_words

# Added to an error's location by pydantic; the space sets them apart from recipe keys.
TAGS = ("source file", "source mapping", "held-out rows")


def _encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise own_words(
            f"no text encoding is called '{name}' (utf-8, utf-16, gb18030, big5, shift_jis, "
            "cp1252 and latin-1 are some)"
        ) from None
    return name


def _separator(text: str) -> str:
    if text != "tab" and set(text) & set('"\r\n'):
        raise own_words("expected characters that are neither quotes nor ends of lines")
    return "\t" if text == "tab" else text


Encoding = Annotated[Text, AfterValidator(_encoding)]
Separator = Annotated[Text, AfterValidator(_separator)]


class SourceSection(Section):
    """A source of rows. What it leaves out is as in the rest of the data section."""

    source: Annotated[
        Text, FILE, Field(description="the file, or ORG/NAME of a data set on the Hub")
    ]
    split: Annotated[
        Text | None,
        Field(
            description="of a data set on the Hub; default: train, and for held-out rows "
            "validation or test"
        ),
    ] = None
    config: Annotated[
        Text | None, Field(description="of a data set on the Hub that has several")
    ] = None
    revision: Annotated[
        Text | None,
        Field(description="branch, tag or commit of a data set on the Hub; a run pins the commit"),
    ] = None
    file: Annotated[
        Text | None, Field(description="a file of a data set on the Hub, in place of its split")
    ] = None
    template: Annotated[
        Text | None,
        FILE,
        Field(description="name or file of its data template; default: data.template"),
    ] = None
    columns: Annotated[
        dict[str, Text] | None,
        Field(description="rename its columns; default: data.columns"),
    ] = None
    system: Annotated[
        Text | None, Field(description="a system turn for those of its rows that have none")
    ] = None
    instruction: Annotated[
        Text | None, Field(description="a text before its rows; default: data.instruction")
    ] = None
    where: Annotated[
        dict[str, Words] | None,
        Field(
            description="only its rows with one of these values in a column: {split: [train, dev]}"
        ),
    ] = None
    rows: Annotated[
        Count | None, Field(description="at most so many of its rows, drawn by run.seed")
    ] = None
    encoding: Annotated[
        Encoding | None, Field(description="of its text, such as gb18030; default: UTF-8")
    ] = None
    separator: Annotated[
        Separator | None,
        Field(description="between the cells of a table; makes one of a text file; default: seen"),
    ] = None
    header: Annotated[
        Flag | None,
        Field(
            description="whether a table's first row names its columns, which are 1, 2, ... "
            "otherwise; default: seen"
        ),
    ] = None
    quotes: Annotated[
        Literal["csv", "literal"] | None,
        Field(description="in a table: enclose cells, or are text; default: seen"),
    ] = None

    @model_serializer(mode="wrap")
    def _given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if value is not None}


def named(source: Source) -> str:
    """Return the file of a source, as the recipe names it."""
    return source if isinstance(source, str) else source.source


def _tag(item: Any) -> str:
    return TAGS[not isinstance(item, str)]


def _held_tag(given: Any) -> str:
    return TAGS[1 if isinstance(given, dict | SourceSection) else 2]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str | dict | SourceSection) else value


if TYPE_CHECKING:
    Source: TypeAlias = str | SourceSection
    HeldOut: TypeAlias = str | int | float | SourceSection
else:
    Source = Annotated[
        Annotated[Text, Tag(TAGS[0])] | Annotated[SourceSection, Tag(TAGS[1])],
        Discriminator(_tag),
    ]
    HeldOut = Annotated[
        Annotated[PathOrAmount, Tag(TAGS[2])] | Annotated[SourceSection, Tag(TAGS[1])],
        Discriminator(_held_tag),
    ]
Sources = Annotated[tuple[Source, ...], Field(min_length=1), BeforeValidator(_listed)]
