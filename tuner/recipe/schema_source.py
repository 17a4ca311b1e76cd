"""The items of `data.train`, and `data.eval`: a file, or a mapping with what is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)

from tuner.schema.fields import FILE, Count, PathOrAmount, Section, Text

# Added to an error's location by pydantic; the space sets them apart from recipe keys.
TAGS = ("source file", "source mapping", "held-out rows")


class SourceSection(Section):
    """A source of rows. What it leaves out is as in the rest of the data section."""

    source: Annotated[Text, FILE, Field(description="the file")]
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
    rows: Annotated[
        Count | None, Field(description="at most so many of its rows, drawn by run.seed")
    ] = None

    @model_serializer(mode="wrap")
    def _given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if value is not None}


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


def files(held_out: HeldOut) -> tuple[Source, ...]:
    """Return the files of `data.eval`; none if its rows are drawn from the training rows."""
    return () if isinstance(held_out, int | float) else (held_out,)
