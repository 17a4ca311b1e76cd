"""How close one model's logits are to another's: the figures of the parity proof."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

# Token ids of one row, by the name of the model's argument.
Probe = dict[str, list[int]]

# (position among a row's logits, token that should be there; -1: none is given)
Targets = list[tuple[int, int]]
NO_TARGET = -1

# Below this mean square of a logit's change, training left nothing that could be measured.
NOTICEABLE = 1e-8


@dataclass(frozen=True)
class ProbeRows:
    """Rows that models are compared on: token ids by argument, and where their logits count."""

    rows: list[dict[str, list[int]]]
    targets: list[Targets]

    def limited(self, places: int) -> ProbeRows:
        """Return the first rows, with about this many positions in all."""
        rows, targets = [], []
        for row, wanted in zip(self.rows, self.targets, strict=True):
            if places <= 0:
                break
            rows.append(row)
            targets.append(wanted[:places])
            places -= len(wanted)
        return ProbeRows(rows, targets)


@dataclass(frozen=True)
class Measures:
    """An artefact compared with the tuned model and with the base.

    Attributes:
        max_logit_difference: largest difference of a logit to the tuned model.
        mean_logit_difference: mean of the same.
        kl: mean KL divergence from the tuned model, in nats per position.
        top1_agreement: share of the positions with the same likeliest token.
        perplexity: on the held-out tokens; None without any.
        perplexity_tuned: of the tuned model.
        perplexity_base: of the base.
        kl_base: mean KL of the base from the tuned model: what training changed.
        kept: share of the change by training that is in the artefact: the regression of
            (artefact - base) on (tuned - base). 1 is all of it, 0 is the base itself.
        answers_kept: share of the change in the answers: 1 - kl / kl_base; None if training
            changed none.
        places: how many positions were compared.
    """

    max_logit_difference: float
    mean_logit_difference: float
    kl: float
    top1_agreement: float
    places: int
    perplexity: float | None = None
    perplexity_tuned: float | None = None
    perplexity_base: float | None = None
    kl_base: float | None = None
    kept: float | None = None
    answers_kept: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as written to export.json."""
        return asdict(self)


@torch.no_grad()
def read(
    model: Any, held: ProbeRows, tick: Callable[[int, int], None] = lambda done, total: None
) -> torch.Tensor:
    """Return logits (positions, vocabulary or classes) at the held positions, row by row, in the
    model's precision, but at least float32.

    Args:
        model: in evaluation mode.
        held: the rows.
        tick: called with (done, total) after every row.
    """
    found = []
    for number, (row, targets) in enumerate(zip(held.rows, held.targets, strict=True)):
        logits = _forward(model, row).logits[0]
        logits = (logits[None] if logits.ndim == 1 else logits)[[place for place, _ in targets]]
        found.append((logits if logits.dtype == torch.float64 else logits.float()).cpu())
        tick(number + 1, len(held.rows))
    return torch.cat(found)


@torch.no_grad()
def run_through(model: Any, held: ProbeRows) -> None:
    """Run the rows through a model for what happens inside it."""
    for row in held.rows:
        _forward(model, row)


def _forward(model: Any, row: dict[str, list[int]]) -> Any:
    return model(**batch_of(row, 1, model.device))


def compare(
    held: ProbeRows, tuned: torch.Tensor, found: torch.Tensor, base: torch.Tensor | None
) -> Measures:
    """Return the figures of one artefact.

    Args:
        held: what the logits were read at.
        tuned: logits (positions, entries) of the tuned model.
        found: of the artefact.
        base: of the base; None if it is not available.
    """
    if found.shape != tuned.shape or not bool(torch.isfinite(found).all()):
        return Measures(math.inf, math.inf, math.inf, 0.0, len(tuned))
    difference = (found - tuned).abs()
    kl, kl_base = divergence(tuned, found), None if base is None else divergence(tuned, base)
    targets = torch.tensor([token for row in held.targets for _, token in row])
    return Measures(
        max_logit_difference=float(difference.max()),
        mean_logit_difference=float(difference.mean()),
        kl=kl,
        top1_agreement=float((tuned.argmax(-1) == found.argmax(-1)).double().mean()),
        places=len(tuned),
        perplexity=_perplexity(found, targets),
        perplexity_tuned=_perplexity(tuned, targets),
        perplexity_base=None if base is None else _perplexity(base, targets),
        kl_base=kl_base,
        kept=None if base is None else _kept(tuned, found, base),
        answers_kept=answers_kept(kl, kl_base),
    )


def answers_kept(kl: float, kl_base: float | None) -> float | None:
    """Return the share of what training changed in the answers that is kept; None if nothing.

    Args:
        kl: of the artefact from the tuned model.
        kl_base: of the base from the tuned model; None if it is unknown.
    """
    if kl_base is None or kl_base < NOTICEABLE:
        return None
    return max(0.0, 1.0 - kl / kl_base)


def divergence(tuned: torch.Tensor, found: torch.Tensor) -> float:
    """Return mean KL(tuned || found) over the positions, in nats; for a single entry it is 0."""
    total = 0.0
    for one, other in zip(tuned.split(64), found.split(64), strict=True):
        log_tuned = functional.log_softmax(one.double(), -1)
        log_found = functional.log_softmax(other.double(), -1)
        total += float((log_tuned.exp() * (log_tuned - log_found)).sum())
    return max(0.0, total / max(1, len(tuned)))


def _perplexity(logits: torch.Tensor, targets: torch.Tensor) -> float | None:
    given = targets != NO_TARGET
    if not bool(given.any()) or logits.shape[-1] == 1:
        return None
    loss = functional.cross_entropy(logits[given], targets[given])
    return math.exp(min(float(loss), 700.0))


def noticeable(tuned: torch.Tensor, base: torch.Tensor) -> bool:
    """Return whether training, or a combination of adapters, changed the base at all."""
    return tuned.shape[-1] == 1 or _kept(tuned, tuned, base) is not None


def _kept(tuned: torch.Tensor, found: torch.Tensor, base: torch.Tensor) -> float | None:
    trained, present = (tuned - base).double(), (found - base).double()
    if tuned.shape[-1] > 1:
        # A constant added to all logits of a position means nothing.
        trained -= trained.mean(-1, keepdim=True)
        present -= present.mean(-1, keepdim=True)
    size = float((trained**2).sum())
    if size / trained.numel() < NOTICEABLE:
        return None
    return float((trained * present).sum()) / size


def batch_of(row: Probe, copies: int, device: Any) -> dict[str, torch.Tensor]:
    """Return a batch of copies of one row; `task_ids` have one number per row."""
    tensors = {name: torch.tensor(list(ids), device=device) for name, ids in row.items()}
    return {
        name: tensor.repeat(copies) if name == "task_ids" else tensor.repeat(copies, 1)
        for name, tensor in tensors.items()
    }
