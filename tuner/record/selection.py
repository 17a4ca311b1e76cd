"""Which weights a run ended with, in words, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.console import formatting


def said(evaluation: Mapping[str, Any]) -> str:
    """Return which weights were kept and what chose them; empty if nothing was chosen.

    Args:
        evaluation: of the record of a run; empty where rows were not scored while it trained.
    """
    if not evaluation.get("selected_on_held_out_rows"):
        return ""
    name, last = evaluation["metric"], evaluation["last"]
    kept, end = evaluation["kept_step"], last["step"]
    parts = []
    if evaluation["stopped_early"]:
        parts.append(f"training stopped early, after step {end} of {evaluation['planned_steps']}")
    if evaluation["keep"] == "best":
        text = f"the weights after step {kept} are kept, the best by {name}"
        if kept < end:
            value = formatting.value(last["scores"].get(name))
            text += f" (after the last step, {end}, it was {value})"
        parts.append(text)
    text = "; ".join(parts or ["training could have stopped early"])
    doubt = "on other rows they may be worse"
    if evaluation.get("tested"):
        doubt = "the scores of the test rows, which have chosen nothing, say how good it is"
    return f"{text[0].upper()}{text[1:]}. This was chosen by scores on the held-out rows: {doubt}"
