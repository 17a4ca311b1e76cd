"""`tuner doctor`: the installation and the machine."""

from __future__ import annotations

from tuner.cli.options import Json, console


def doctor(json: Json = False) -> None:
    """Show versions, devices, disk space and missing optional packages."""
    from tuner.cli import installation

    where, found = console(json), installation.report()
    where.event("doctor", **found)
    where.table(("", ""), installation.rows(found))
    for problem in found["problems"]:
        where.warn(problem)
