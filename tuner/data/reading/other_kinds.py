"""Kinds of file that are not read, and how each becomes one that is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tuner.errors import DataError

OTHERS = {
    (".gz", ".tgz"): "decompress it: gunzip --keep {}",
    (".bz2",): "decompress it: bunzip2 --keep {}",
    (".xz",): "decompress it: unxz --keep {}",
    (".zst",): "decompress it: unzstd {}",
    (".zip", ".tar", ".7z"): "unpack {}",
    (".xlsx", ".xls", ".ods", ".numbers"): "save the sheet of {} as CSV (UTF-8)",
    (".arrow",): 'write it as Parquet: python -c "from datasets import Dataset; '
    "Dataset.from_file('{}').to_parquet('rows.parquet')\"",
    (".feather",): 'write it as Parquet: python -c "from pyarrow import feather, parquet; '
    "parquet.write_table(feather.read_table('{}'), 'rows.parquet')\"",
    (".md", ".rst", ".html", ".docx", ".doc", ".pdf", ".rtf"): "save the text of {} as .txt, each "
    "line of which is a row",
    (".pkl", ".pickle", ".pt", ".npy", ".npz"): "write the rows of {} as JSON Lines (pickled files "
    "can run code, and are never opened)",
    (".yaml", ".yml", ".xml", ".sqlite", ".db", ".orc", ".avro"): "write the rows of {} as JSON "
    "Lines",
}


def unknown(path: Path, known: Iterable[str]) -> DataError:
    """Return the error about a file of a kind that is not read.

    Args:
        path: the file.
        known: the endings of those that are.
    """
    suffix = path.suffix.lower()
    how = next((how.format(path) for ends, how in OTHERS.items() if suffix in ends), "")
    return DataError(
        f"the format of {path} is not known",
        f"its name ends in '{suffix}'" if suffix else "its name has no ending",
        f"{how}; then name that file" if how else f"use one of {', '.join(known)}",
    )
