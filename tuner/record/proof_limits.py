"""LIMITS: by how much an artefact may differ from what was trained, and where a warning begins.

Numbers only, so that showing a verdict needs no torch. `docs/proofs.md` has them in one table
with the measurement behind each; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Half a unit in the last place, as a share of the number: the most that one rounding moves it.
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# The noise is the measured difference between two reads of the same weights. The reloaded model may
# differ by this many times the noise, or by this many roundings, whichever is more. Sums in float32
# round at every layer; in the other types it is mostly the logits that are rounded.
NOISE_FACTOR = 4.0
NOISE_ROUNDINGS = {"float32": 32.0, "float16": 4.0, "bfloat16": 4.0}
# A quantized artefact, or one that no formula proves, must keep at least this share of the change.
KEPT = 0.5
# Below this share of what training changed, a warning is shown.
KEPT_WELL = 0.95
# Largest mean KL of an adapter merged into the weights of a quantized base, in nats.
REQUANTIZED = 0.5
# Largest mean KL of a float32 artefact from the tuned model with a separate adapter, in nats.
APART = 1e-6
# Least share of the change in an artefact whose method no formula proves.
UNPROVEN = 0.99
# `tuner verify`, on any machine: mean difference of the logits from those when it was written, as a
# share of their mean size; and mean KL between the two in nats.
DRIFT = {"exact": (1e-4, 1e-6), "rounded": (0.05, 0.02)}


def verdict(artefact: Mapping[str, Any]) -> str:
    """Return the verdict on an artefact that passed its checks."""
    found = artefact.get("proof")
    if found == "equal":
        return "proven equal"
    share = kept(artefact)
    if found == "checked" and share is None:
        share = artefact.get("kept")
    keeps = "" if share is None else f"keeps {percent(share)} of what training changed"
    if found == "rounded":
        words = f"proven: the exact merge, rounded to {artefact['dtype']}"
        return f"{words}; {keeps}" if keeps else words
    if found == "checked" or artefact.get("limit_of") == "kl":
        said = [keeps] if keeps else []
        if artefact.get("limit_of") == "kl":
            said.append(f"KL {artefact['kl']:.3g} (limit {artefact['limit']:.3g})")
        return f"checked: {', '.join(said)}" if said else "checked"
    return "verified" if artefact.get("verified", True) else "not verified"


def kept(artefact: Mapping[str, Any]) -> float | None:
    """Return the smaller of the shares of the change in weights and in answers, if one is known."""
    shares = [artefact.get(name) for name in ("weights_kept", "answers_kept")]
    known = [share for share in shares if share is not None]
    return min(known) if known else None


def percent(share: float) -> str:
    """Return a share as a percentage, never rounded up to 100 %."""
    if share >= 1.0 - 1e-9:
        return "100 %"
    shown = int(share * 1000) / 10
    return f"{max(0.0, shown):.1f} %"


def warning(artefact: Mapping[str, Any]) -> str | None:
    """Return the warning for an artefact that loses part of what training changed."""
    share = kept(artefact)
    if share is None or share >= KEPT_WELL:
        return None
    parts = []
    for key, where in (("weights_kept", "in the weights"), ("answers_kept", "in the answers")):
        if artefact.get(key) is not None:
            parts.append(f"{percent(artefact[key])} {where}")
    if artefact.get("proof") == "rounded":
        advice = (
            "set model.dtype: float32, or keep the adapter separate (export.formats: [adapter])"
        )
    else:
        advice = "choose a format with more bits, or keep the adapter separate"
    return (
        f"{artefact.get('kind', 'artefact')} keeps only part of what training changed: "
        f"{', '.join(parts)}; {advice}"
    )
