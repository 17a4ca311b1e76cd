"""Two faults of one file in one error, so that both are mended at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from tuner.data.sources.split_column import TrainedTests
from tuner.errors import DataError, TunerError

_LINE = "data: {"


def with_later(first: DataError, later: TunerError) -> DataError:
    """Return an error with what would be found once it is mended, whichever of its recipes is
    taken; the error itself where the later one has recipes, which would not have what mends it.

    Args:
        first: with recipes.
        later: of the same rows.
    """
    if _LINE in later.fix:
        return first
    return _both(first, later, f"{first.fix}\nand, whichever you take: {later.fix}")


def mended(first: DataError, later: TunerError) -> DataError:
    """Return an error with what was found in the rows as its fix reads them; the error itself where
    that has no recipes, since they would hold both.

    Args:
        first: with one recipe.
        later: of the rows as the fix reads them; its recipes mend both.
    """
    return _both(first, later, later.fix) if _LINE in later.fix else first


def _both(first: DataError, later: TunerError, fix: str) -> DataError:
    reasons = [why for each in (first, later) for why in (each.problems or [each.why]) if why]
    return DataError(f"{first.what}; and {later.what}", "", fix, reasons)


class Held:
    """Holds an error about some rows back until their other faults are known.

    Args:
        holds: whether it does; otherwise errors are raised as they come.
    """

    def __init__(self, holds: bool) -> None:
        self._holds = holds
        self._first: DataError | None = None

    @property
    def keys(self) -> Mapping[str, str]:
        """The keys of a recipe that mend what is held back; empty if nothing is, or none do."""
        return self._first.keys if isinstance(self._first, TrainedTests) else {}

    def back(self, check: Callable[..., None], *arguments: Any) -> None:
        """Call a check, and hold its error back."""
        try:
            check(*arguments)
        except DataError as error:
            if not self._holds:
                raise
            self._first = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, later: BaseException | None, trace: object) -> None:
        """Raise what was held back, with the error that ends the block."""
        if self._first is None or (later is not None and not isinstance(later, TunerError)):
            return
        if later is None:
            raise self._first from None
        # What was found later has recipes that mend the first fault, too.
        both = mended if self.keys and _LINE in later.fix else with_later
        raise both(self._first, later) from None
