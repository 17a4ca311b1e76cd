"""`tuner verify`: check that an artefact still matches its recorded results."""

from __future__ import annotations

from typing import Annotated

import typer

from tuner.cli.options import BaseOfAdapter, ForceBase, Json, console, quiet_libraries
from tuner.console import formatting
from tuner.record import proof_limits

# Figures from the manifest of an artefact.
_SAID = {
    "kl": "KL to the tuned model",
    "kl_base": "KL of the base",
    "top1_agreement": "top-1 agreement",
    "perplexity": "perplexity",
    "perplexity_tuned": "perplexity of the tuned model",
}


def verify(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Artefact or run folder.")],
    base: BaseOfAdapter = None,
    force_base: ForceBase = False,
    json: Json = False,
) -> None:
    """Check that an artefact still matches the results recorded when it was written."""
    where = console(json)
    from tuner.export.origin import find_artefact

    origin = find_artefact(path)
    with quiet_libraries():
        from tuner.export import verify as check

        found = check.check(origin, base, force_base, where)
    where.event("verified", **found)
    where.text(
        f"{found['kind']}  {found['path']}  {found['files']} files unchanged; "
        f"logits differ by {found['drift']:.2g} on average since it was written, KL "
        f"{found['drift_kl']:.2g}; {proof_limits.verdict(found)}"
    )
    if then := found["then"]:
        known = (f"{_SAID[name]} {formatting.value(then[name])}" for name in _SAID if name in then)
        where.text(f"when it was written: {', '.join(known)}")
