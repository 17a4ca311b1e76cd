"""What the bodies of requests are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def unicode(text: str) -> str:
    """Return a text that UTF-8 can write.

    Raises:
        PydanticCustomError: it has half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "half of a surrogate pair is missing") from None
    return text


Text = Annotated[str, AfterValidator(unicode)]
Words = Annotated[Text, Field(min_length=1, max_length=1000)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def first_problem(
    problems: Sequence[Mapping[str, Any]], body: Any
) -> tuple[Mapping[str, Any], list[str]]:
    """Return a problem of a body, and its place: keys and positions of the body.

    Where a value may be of several kinds, pydantic has a problem for each, with the name of its
    own type in the place; the problem of the kind that fits best lies deepest.

    Args:
        problems: pydantic's; each place begins with `body`.
        body: what was sent.
    """
    found = [(each, _place(each, body)) for each in problems]
    root = found[0][1][:1]
    return max((each for each in found if each[1][:1] == root), key=lambda each: len(each[1]))


def _place(problem: Mapping[str, Any], body: Any) -> list[str]:
    place, here, known, inside = [], body, False, True
    for part in problem["loc"][1:]:
        known, inside = isinstance(here, dict), part in _keys(here)
        if inside:
            here = here[part]
            place.append(str(part))
    if problem["type"] == "missing" and known and not inside:
        place.append(str(problem["loc"][-1]))
    return place


def _keys(value: Any) -> Collection[Any]:
    if isinstance(value, list):
        return range(len(value))
    return value if isinstance(value, dict) else ()


class Strict(BaseModel):
    """Refuses unknown parameters; null means not given."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}
    silent: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kept = {}
        for name, value in given.items():
            known = name in cls.neutral or name in cls.silent or name in cls.model_fields
            if name in cls.silent or (known and value is None):
                continue
            if name in cls.neutral:
                if any(type(value) is type(each) and value == each for each in cls.neutral[name]):
                    continue
                raise PydanticCustomError(
                    "unsupported_parameter",
                    "this server does not support {parameter} with this value",
                    {"parameter": name},
                )
            kept[name] = value
        return kept
