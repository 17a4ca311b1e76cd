"""The types a recipe's keys can have, and the base class of its sections.

Values arrive as `strict_yaml` leaves them: unquoted scalars are `Plain` text. Each type here reads
that text in the one way the key expects, so that no value silently changes its type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from tuner.schema import strict_yaml


@dataclass(frozen=True)
class Names:
    """Marks a key whose text names something on disk.

    Attributes:
        kind: file; adapter (a run, an adapter or a recipe); base; or function (`file.py:name`).
    """

    kind: Literal["file", "adapter", "base", "function"]


FILE, ADAPTER, BASE, FUNCTION = (
    Names("file"),
    Names("adapter"),
    Names("base"),
    Names("function"),
)


class Section(BaseModel):
    """A strict, frozen part of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


def own_words(said: str, key: str = "") -> PydanticCustomError:
    """Return a problem in words for the user, at the key at fault below the validator's place."""
    return PydanticCustomError("own_words", "{said}", {"said": said, "key": key})


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int | float):
        raise ValueError(f"expected text, not {value!r}; put it in quotes")
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    if isinstance(value, str):
        number = strict_yaml.number(value)
        if number is None or not math.isfinite(number) or number != int(number):
            raise ValueError(f"expected a whole number, not '{value}'")
        # Digits are read as written: a float would round more than 15 of them.
        return int(value) if value.lstrip("+-").isdigit() else int(number)
    return value


def _float(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    if isinstance(value, str):
        number = strict_yaml.number(value)
        if number is None:
            raise ValueError(f"expected a number, not '{value}'")
        value = number
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, not {value}")
    return value


def _flag(value: Any) -> Any:
    if isinstance(value, strict_yaml.Plain) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, not '{value}'")
    return value


def _auto_or(read: Any) -> Any:
    return lambda value: "auto" if value == "auto" else read(value)


def auto_or_number(value: Any) -> Any:
    """Read `auto`, or a number."""
    return "auto" if value == "auto" else _float(value)


def _none_or_float(value: Any) -> Any:
    return "none" if value == "none" else _float(value)


def _free(value: Any) -> Any:
    return strict_yaml.resolve(value)


Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
Integer = Annotated[int, BeforeValidator(_integer)]
Count = Annotated[int, BeforeValidator(_integer), Field(ge=1)]
CountFromZero = Annotated[int, BeforeValidator(_integer), Field(ge=0)]
Float = Annotated[float, BeforeValidator(_float)]
Positive = Annotated[float, BeforeValidator(_float), Field(gt=0)]
NotNegative = Annotated[float, BeforeValidator(_float), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_float), Field(ge=0, lt=1)]
Flag = Annotated[bool, BeforeValidator(_flag)]
AutoFlag = Annotated[bool | Literal["auto"], BeforeValidator(_auto_or(_flag))]
AutoCount = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto"], BeforeValidator(_auto_or(_integer))
]
AutoPositive = Annotated[
    Annotated[float, Field(gt=0)] | Literal["auto"], BeforeValidator(_auto_or(_float))
]
AutoNotNegative = Annotated[
    Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_auto_or(_float))
]
NoneOrPositive = Annotated[
    Annotated[float, Field(gt=0)] | Literal["none"], BeforeValidator(_none_or_float)
]
FreeMapping = Annotated[dict[str, Any], BeforeValidator(_free)]


def _words(value: Any) -> Any:
    if isinstance(value, str):
        return (str(value),)
    if isinstance(value, list | tuple):
        return tuple(_text(item) for item in value)
    return value


def _counts(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_integer(item) for item in value)
    return (_integer(value),)


Counts = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(_counts),
    PlainSerializer(list, return_type=list[int]),
]
Words = Annotated[
    tuple[Text, ...], BeforeValidator(_words), PlainSerializer(list, return_type=list[str])
]


def _refuse_whole(value: Any, unit: str) -> None:
    """Refuse `1.0`, which may mean all or one."""
    written = isinstance(value, float) or (isinstance(value, str) and not value.isdigit())
    number = strict_yaml.number(value) if isinstance(value, str) else value
    if written and number == 1:
        raise ValueError(
            f"{value} may mean all or one; write 1 for one {unit}, or a fraction below 1"
        )


def _amount(value: Any) -> Any:
    """Keep a path as text; read a number below 1 as a fraction, and from 1 on as a count."""
    _refuse_whole(value, "row")
    if isinstance(value, strict_yaml.Plain):
        number = strict_yaml.number(value)
        if number is not None:
            value = number
    if isinstance(value, float | int) and not isinstance(value, bool):
        if not math.isfinite(value) or value < 0 or (value > 1 and value != int(value)):
            raise ValueError(
                f"expected a file, a fraction below 1 or a whole number of rows, not {value}"
            )
        return int(value) if value >= 1 or value == 0 else float(value)
    return _text(value)


PathOrAmount = Annotated[str | int | float, BeforeValidator(_amount)]


def _steps_or_share(value: Any) -> Any:
    _refuse_whole(value, "step")
    value = _float(value)
    if isinstance(value, float | int) and (value < 0 or (value >= 1 and value != int(value))):
        raise ValueError(
            f"expected a fraction of the steps below 1 or a number of steps, not {value}"
        )
    return int(value) if isinstance(value, float | int) and value >= 1 else value


StepsOrShare = Annotated[int | float, BeforeValidator(_steps_or_share)]
