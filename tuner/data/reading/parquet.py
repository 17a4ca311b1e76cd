"""Parquet files as rows. A value that Python cannot hold is an error only where it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import Unreadable
from tuner.errors import DataError
from tuner.machine import packages

_ROWS = 256


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and values of every row; those that are null are left out.

    Raises:
        DataError: pyarrow is not installed, or the file is broken.
    """
    try:
        pyarrow = import_module("pyarrow")
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{path} needs pyarrow", "Parquet files are read with it", packages.install("pyarrow")
        ) from None
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=_ROWS):
            for values in _values(batch):
                number += 1
                yield number, _without_nulls(values)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file",
            str(error).partition("\n")[0],
            "write or download the file again",
        ) from None


def _values(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch, value by value where one cannot be read."""
    names = batch.schema.names
    again = {name for name, times in Counter(names).items() if times > 1}
    try:
        found: list[dict[str, Any]] = batch.to_pylist()
    except Exception:  # the conversion of a value may raise anything
        columns = [_readable(column) for column in batch.columns]
        found = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    for name in again:
        for values in found:
            values[name] = Unreadable("the file has several columns of this name (rename them)")
    return found


def _readable(column: Any) -> list[Any]:
    """The values of a column, each that has no Python value with the reason."""
    values = []
    for scalar in column:
        try:
            values.append(scalar.as_py())
        except Exception as problem:
            reason = str(problem).partition("\n")[0].rstrip(".")
            if isinstance(problem, OverflowError):
                reason = "out of range"
            elif "zoneinfo" in reason:
                reason = "unknown time zone"
            values.append(Unreadable(f"{column.type} value: {reason}"))
    return values


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct every field; those that a row does not have are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
