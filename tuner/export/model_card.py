"""The README.md of a repository on the Hub: base, data, method, scores, licence, how to load it.

Everything in it is from the manifest of what is pushed and the record of its run. Like the card of
an artefact it has names and counts only: no path, no user name and no text of the rows. Its text is
in `model_card.md.jinja`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import __version__
from tuner.console import formatting
from tuner.export import card
from tuner.recipe.aliases import ALIASES
from tuner.recipe.formats import FORMATS
from tuner.record import selection

if TYPE_CHECKING:
    from tuner.model.adapters.saved_models import SavedModel

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# Scores that are a share of the held-out rows, each right or wrong.
_SHARES = ("label_accuracy", "exact_match", "pair_accuracy")
_Z95 = 1.959963984540054


def text(
    repo: str, licence: str | None, parts: Mapping[str, SavedModel], record: Mapping[str, Any]
) -> str:
    """Return the card of what is pushed.

    Args:
        repo: ORG/NAME.
        licence: as the user states it; None: that of an embedded base, else none is stated.
        parts: the artefacts by format, the first one at the repository's top.
        record: of their run; empty without one.
    """
    plan, sealed = record.get("plan") or {}, next(iter(parts.values())).sealed
    values = {key: item["value"] for key, item in (plan.get("values") or {}).items()}
    base, facts = str(sealed.get("base", "")), sealed.get("facts") or {}
    embedded = ALIASES.get(base)
    labels = facts.get("num_labels")
    scores = record.get("scores") or {}
    rows = _rows_scored(plan, values)
    shown = [
        (name, before, _interval(name, before, rows), after, _interval(name, after, rows))
        for name, before, after in card.scores_of(scores)
    ]
    return card.template(_TEMPLATE).render(
        version=__version__,
        repo=repo,
        licence=licence or (embedded.licence if embedded else None),
        stated=licence is not None,
        parts=[_part(kind, part, number) for number, (kind, part) in enumerate(parts.items())],
        base=base,
        fingerprint=sealed.get("base_fingerprint"),
        embedded=embedded,
        hub=(plan.get("model") or {}).get("kind") == "hub",
        place=card.place_of(base, plan, values),
        facts=facts,
        labels=f", num_labels={labels}" if labels else "",
        code=", trust_remote_code=True" if facts.get("trust_remote_code") else "",
        plan=plan,
        values=values,
        method=card.method_of(values) if values else [],
        data=plan.get("data") or {},
        held_out=(record.get("scored") or {}).get("held_out_sha256"),
        scores=shown,
        bracketed=any(low or high for _, _, low, _, high in shown),
        half=(scores.get("after") or {}).get("reward_ci95"),
        rows_scored=rows,
        chosen=selection.said(record.get("evaluation") or {}),
        versions=sealed.get("versions") or {},
    )


def _part(kind: str, part: SavedModel, number: int) -> dict[str, Any]:
    """Return what the card says of one artefact."""
    files = sorted(path.name for path in part.folder.glob("*.gguf"))
    place = f"{kind}/" if number else ""
    figures = part.sealed.get("figures") or {}
    return {
        "kind": kind,
        "format": FORMATS[kind],
        "place": place,
        "folder": f', subfolder="{kind}"' if number else "",
        "gguf": [f"{place}{name}" for name in files],
        "kl": figures.get("kl", part.sealed.get("kl")),
    }


def _rows_scored(plan: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """Return how many held-out rows a run scored; 0: unknown."""
    rows = int((plan.get("data") or {}).get("rows_eval") or 0)
    most = values.get("eval.max_rows")
    return min(rows, int(most)) if most else rows


def _interval(name: str, score: float | None, rows: int) -> str:
    """Return the interval of a share of rows, `[0.71, 0.93]`; empty: it has none.

    It is left out where the score is no whole number of rows, so that rows were left out or
    weighted and the count is another.
    """
    if name not in _SHARES or score is None or not rows:
        return ""
    if abs(score * rows - round(score * rows)) > 1e-6:
        return ""
    low, high = wilson(score, rows)
    return f" [{formatting.value(low)}, {formatting.value(high)}]"


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` independent trials.

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927): unlike the
    normal interval it stays between 0 and 1, and has a width at 0 and 1.
    """
    square = _Z95**2 / count
    middle = (share + square / 2) / (1 + square)
    half = _Z95 * math.sqrt((share * (1 - share) + square / 4) / count) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
