"""`export` and `verify`: artefacts in other formats, and whether one is still what was proven."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import wording
from tuner.errors import RecipeError
from tuner.export_formats import known

if TYPE_CHECKING:
    from tuner.console import Console

ONTO = ("auto", "dequantized", "original")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    name: str
    formats: Sequence[str]
    output: Path | None
    base: str | None
    force_base: bool
    onto: str
    max_kl: float | None
    portable: bool


def export(request: Request, console: Console) -> None:
    """Write, prove and seal each format of a run; the table says how near each is."""
    from tuner.export_origin import find, refuse

    if request.onto not in ONTO:
        raise RecipeError(f"--onto: {request.onto} is unknown", "", f"one of {', '.join(ONTO)}")
    if not request.formats:
        raise RecipeError(
            "nothing says what to export",
            "--format is not given",
            "tuner export RUN --format merged; tuner export --formats lists them",
        )
    rows = known(request.formats)
    origin = find(request.name)
    refuse(origin, [row.name for row in rows])
    output = request.output or origin.run or origin.folder.parent
    with _quiet():
        from tuner.export import convert, work

        settings = work.Settings(
            output=output.resolve(),
            base=request.base,
            force_base=request.force_base,
            onto=request.onto,
            max_kl=request.max_kl,
            portable=request.portable,
        )
        reports = convert.export(origin, rows, settings, console)
    show(reports, console)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What libraries print or warn of is not ours: stdout is the console's."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tuner import model

        model.quiet_libraries()
        yield


def show(reports: Sequence[dict[str, Any]], console: Console) -> None:
    """The parity proof on screen, and as JSON."""
    console.event("exported", artefacts=list(reports))
    console.table(
        ("format", "size", "logits off by", "KL", "same first", "perplexity", ""),
        [
            (
                report["kind"],
                wording.size(report["bytes"]),
                wording.value(report["max_logit_difference"]),
                wording.value(report["kl"]),
                f"{report['top1_agreement']:.1%}",
                wording.value(report["perplexity"]),
                report["verdict"],
            )
            for report in reports
        ],
    )
    if reports:
        widest = max(reports, key=lambda report: report["places"])
        console.text(
            f"compared at {widest['places']} places; perplexity of the tuned model "
            f"{wording.value(widest['perplexity_tuned'])}, of the base "
            f"{wording.value(widest['perplexity_base'])}; KL of the base "
            f"{wording.value(widest['kl_base'])}"
        )
    for report in reports:
        if "kl_by_base_weights" in report:
            both = ", ".join(f"{k} {v:.3g}" for k, v in report["kl_by_base_weights"].items())
            console.text(f"merged onto the {report['merged_onto']} weights (KL: {both})")
            break
    for report in reports:
        console.text(f"{report['kind']}  {report['path']}")


def list_formats(console: Console) -> None:
    """Name and purpose of each format."""
    from tuner.export_formats import FORMATS

    items = [{"name": row.name, "what": row.what, "extra": row.extra} for row in FORMATS.values()]
    console.event("formats", items=items)
    console.table(
        ("format", "", "needs"),
        [
            (row.name, row.what, f"tuner[{row.extra}]" if row.extra else "")
            for row in FORMATS.values()
        ],
    )


def verify(name: str, base: str | None, force_base: bool, console: Console) -> None:
    """Whether an artefact is still what was proven when it was written."""
    from tuner.export_origin import find_artefact

    origin = find_artefact(name)
    with _quiet():
        from tuner.export import check

        found = check.check(origin, base, force_base, console)
    console.event("verified", **found)
    console.text(
        f"{found['kind']}  {found['path']}  {found['files']} files as written; "
        f"logits within {found['drift']:.2g} of those proven then "
        f"(tuned model: {found['max_logit_difference']:.2g})"
    )
