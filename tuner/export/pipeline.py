"""The way of every artefact: written aside, reloaded in a fresh process, proven, then sealed.

The end of a run and `tuner export` go it alike; they differ in what an artefact is made from and
measured by: the live model (`parity`), or what a run has sealed (`convert`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tuner.errors import IntegrityError, ModelError
from tuner.export import card
from tuner.model.folded import CHAIN
from tuner.recipe.formats import ExportFormat, needs_merge
from tuner.record import provenance, seal

Refusal = IntegrityError | ModelError


@dataclass(frozen=True)
class About:
    """What manifests and cards say about a trained model, whatever the format.

    Attributes:
        base: name of its base.
        fingerprint: of the base's weights; None if unknown.
        facts: how to load it (see `fresh_process.facts_of`).
        run: `plan`, `scores` and `evaluation` of its run; empty without one.
        further: of the manifests, such as how adapters were combined.
    """

    base: str
    fingerprint: str | None
    facts: dict[str, Any]
    run: Mapping[str, Any]
    further: Mapping[str, Any] = field(default_factory=dict)


class Exporter(Protocol):
    """A trained model that is written in several formats."""

    about: About

    def write(self, row: ExportFormat, folder: Path) -> None:
        """Write the files of a format."""

    def reload(self, folders: Mapping[str, Path]) -> Mapping[str, Any]:
        """Return what a fresh process finds in these folders, by format."""

    def judge(self, row: ExportFormat, folder: Path, found: Any) -> dict[str, Any]:
        """Return what is proven about an artefact, for its manifest.

        Raises:
            IntegrityError: it is not what was trained.
        """


def write_artefacts(
    exporter: Exporter, rows: Sequence[ExportFormat], output: Path
) -> list[Refusal]:
    """Write formats, prove each, and seal those that are proven.

    Args:
        exporter: the model.
        rows: formats that one fresh process examines.
        output: takes a folder for each.

    Returns:
        Why the others were refused: nothing is left under their names.
    """
    extras = {row.name: _extra(exporter.about, row) for row in rows}
    refused: list[Refusal] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_collecting(refused))
        each = {row.name: stack.enter_context(contextlib.ExitStack()) for row in rows}
        folders = {
            name: own.enter_context(seal.seal(output / name, extra=extras[name]))
            for name, own in each.items()
        }
        for row in rows:
            exporter.write(row, folders[row.name])
            if row.card or (row.bits and not row.llama_type):
                about = exporter.about
                chain = about.further.get(CHAIN, ())
                place = folders[row.name]
                card.write_card(place, row.name, about.base, about.facts, about.run, chain)
        found = exporter.reload(folders)
        for row in rows:
            # What is proven is kept, even if others fail.
            with _collecting(refused), each[row.name]:
                extras[row.name] |= exporter.judge(row, folders[row.name], found[row.name])
    return refused


@contextlib.contextmanager
def _collecting(refused: list[Refusal]) -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ModelError) as error:
        refused.append(error)


def _extra(about: About, row: ExportFormat) -> dict[str, Any]:
    """Return what the manifest of a format says besides what is proven."""
    merged = {"quantize": "none"} if needs_merge(row.name) else {}
    chosen = {"evaluation": about.run["evaluation"]} if about.run.get("evaluation") else {}
    return {
        "kind": row.name,
        "base": about.base,
        "base_fingerprint": about.fingerprint,
        "facts": about.facts | merged,
        "versions": provenance.versions(("torch", "transformers", "peft", *row.packages)),
        **chosen,
        **about.further,
    }
