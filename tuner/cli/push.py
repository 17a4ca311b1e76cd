"""`tuner push`: a finished run to a repository on the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import (
    BaseOfAdapter,
    ForceBase,
    Json,
    Quiet,
    Verbose,
    console,
    quiet_libraries,
)
from tuner.console import formatting

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.export.push import Push


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or one artefact's.")],
    to: Annotated[
        str, typer.Option("--to", metavar="ORG/NAME", help="Repository; made if there is none.")
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Format to send, the first at the repository's top; default: what the run "
            "trained. Repeatable.",
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a public repository; default: private.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="BRANCH", help="Branch; made if there is none."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            metavar="ID",
            help="Licence for the card, as the Hub names it: apache-2.0, mit, llama3.1 ...",
        ),
    ] = None,
    base: BaseOfAdapter = None,
    force_base: ForceBase = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Verify, show every file and the card, and send nothing."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Send a finished run to the Hub, after `tuner verify` has accepted it."""
    where = console(json, quiet, verbose)
    from tuner.export import hub_upload

    target = hub_upload.target(to, public, revision)
    token = None if dry_run else hub_upload.token()
    with quiet_libraries():
        from tuner.export import push as pushing

        found = pushing.collect(run, formats or [], target, licence)
        pushing.verify(found, base, force_base, where)
        if dry_run:
            _show(found, where)
            return
        where.note(f"sending {_sum(found)} to {target.repo} ({target.visibility})")
        sent = hub_upload.send(target, found.files, token or "", where)
    where.event("pushed", **found.as_dict(), **sent)
    where.closing(f"pushed {_sum(found)}: {sent['url']}")


def _show(found: Push, console: Console) -> None:
    """Show what would be sent: every file with its size, then the card."""
    target = found.target
    console.event("push", **found.as_dict(), card=found.card)
    branch = f", branch {target.revision}" if target.revision else ""
    console.text(f"would send to {target.repo} ({target.visibility}{branch}):")
    console.table(
        ("file", "size"), [(file.path, formatting.size(file.bytes)) for file in found.files]
    )
    console.text(f"{_sum(found)}; README.md:")
    if not console.json:
        console.document(f"\n{found.card}")


def _sum(found: Push) -> str:
    total = sum(file.bytes for file in found.files)
    return f"{formatting.counted(len(found.files), 'file')}, {formatting.size(total)}"
