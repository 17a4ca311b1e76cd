"""The columns of a data template: their names, and what is in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from tuner.schema.fields import Section, Text, Words

# What a column can hold; `tuner/data/columns/evidence.py` says how each is seen.
Kind = Literal[
    "text",  # texts
    "long",  # texts, half of them over 200 characters (or 100 with Chinese ones)
    "number",
    "boolean",  # true and false, also as text; yes and no, 是 and 否
    "letter",  # A to Z alone, perhaps in brackets or with a stop
    "index",  # whole numbers from 0 to 25, also as text
    "label",  # short texts or whole numbers that repeat
    "list",  # texts or numbers
    "mapping",
    "objects",  # a list of mappings
    "table",  # a list of lists
    "pairs",  # a list of pairs of texts, such as questions with their answers
    "turns",  # a conversation
    "json",  # text that is JSON: a list or a mapping
]
Kinds = Annotated[
    tuple[Kind, ...],
    BeforeValidator(lambda value: (str(value),) if isinstance(value, str) else value),
]


class Columns(Section):
    """The columns a template reads, and by what they are recognised."""

    required: Annotated[Words, Field(min_length=1, description="columns every row must have")]
    optional: Annotated[Words, Field(description="columns used if a row has them")] = ()
    blank: Annotated[
        Words, Field(description="required columns that may be empty in a row, if not all are")
    ] = ()
    aliases: Annotated[
        tuple[dict[str, Text], ...], Field(description="other names, for several columns at once")
    ] = ()
    other_names: Annotated[
        dict[str, Words],
        Field(description="other names of a column, best first; any case; -, _ and space alike"),
    ] = Field(default_factory=dict)
    contents: Annotated[
        dict[str, Kinds],
        Field(description="what a column holds, one of these kinds; by default text"),
    ] = Field(default_factory=dict)
    words: Annotated[
        dict[str, Text],
        Field(description="what the plan calls a column; several may share a word: options"),
    ] = Field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.required + self.optional

    @model_validator(mode="after")
    def _known(self) -> Columns:
        for key in ("other_names", "contents", "words", "blank"):
            if unknown := set(getattr(self, key)) - {*self.names}:
                raise ValueError(f"{key} names unknown columns: {sorted(unknown)}")
        return self
