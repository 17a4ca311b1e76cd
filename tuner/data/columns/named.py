"""A data section in which the recognised templates are named: what a run's lock says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.data.columns.template_match import NONE
from tuner.data.templates.template import AUTO, load_template
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection


def named(data: DataSection, report: Mapping[str, Any]) -> DataSection:
    """Return the section with the templates and columns by which its files were read.

    Columns that hold turns in place of a text are only seen where no template is named, so files
    with some stay as they are. An eval file has no keys of its own: if it was read otherwise than
    the training files, it stays to be recognised.

    Args:
        data: of the recipe.
        report: on the rows.
    """
    files = report["files"]
    if data.template != AUTO or any("spoken" in file for file in files):
        return data
    ignored = [str(name).partition(" (")[0] for name in report["ignored_columns"]]
    read = [_keys(file, ignored) for file in files if "template" in file]
    if len(data.train) == 1 and all(each == read[0] for each in read):
        template, columns = read[0]
        if isinstance(data.train[0], str):
            return data.model_copy(
                update={"template": template, "columns": {**data.columns, **columns}}
            )
    train = [
        _source(item, _keys(file, ignored)) if "template" in file else item
        for item, file in zip(data.train, files, strict=False)
    ]
    return data.model_copy(update={"train": tuple(train)})


def _keys(file: Mapping[str, Any], ignored: list[str]) -> tuple[str, dict[str, str]]:
    """The template of a file, and the columns that it does not have under the template's name."""
    template, mapping = load_template(file["template"], Path()), file["mapping"]
    columns = {name: column for name, column in mapping.items() if name != column}
    unread = [n for n in template.columns.optional if n not in mapping and n in ignored]
    return template.name, columns | dict.fromkeys(unread, NONE)


def _source(item: str | SourceSection, keys: tuple[str, dict[str, str]]) -> SourceSection:
    own = SourceSection(source=item) if isinstance(item, str) else item
    if own.template is not None:
        return own
    return own.model_copy(
        update={"template": keys[0], "columns": {**(own.columns or {}), **keys[1]}}
    )
