"""The proof of a merged model, tensor by tensor, in a process that took no part in merging.

Every stored value must be the merge by the method's formula in float64, rounded once to the stored
type. The merge is computed in float32, which may end up to `slack` away (see `saved`), and rounding
is monotone: so with m the exact value, the stored one is between the roundings of m - slack and
of m + slack. That is half a unit in the last place of the stored type, plus float32's own error,
and it is exact at powers of two and among the smallest numbers, where units differ.

What no adapter touches is the base's bit for bit, and no tensor is missing or added.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tuner.export.proof import formulas
from tuner.export.proof.saved import Exact, Formulas, Replaced, transposed
from tuner.export.proof.stored import Dequantized, Stored, skeleton, tied


@dataclass
class Proof:
    """What was found in one merged model.

    Attributes:
        tensors: how many were compared.
        touched: how many of them the adapter changes.
        problems: what differs, in words; none in a model that is proven.
        along: sum over the touched tensors of <stored - base, merge - base>.
        whole: the same of <merge - base, merge - base>.
        formula: false if the method of the adapter has no formula.
        dtypes: of the touched tensors.
    """

    tensors: int = 0
    touched: int = 0
    problems: list[str] = field(default_factory=list)
    along: float = 0.0
    whole: float = 0.0
    formula: bool = True
    dtypes: set[str] = field(default_factory=set)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON, with the share of the update that the weights keep."""
        return {
            "formula": self.formula,
            "tensors": self.tensors,
            "touched": self.touched,
            "problems": self.problems[:4],
            "refused": len(self.problems),
            "weights_kept": self.along / self.whole if self.whole > 0 else None,
            "dtypes": sorted(self.dtypes),
        }


def prove(job: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a merged model on the disk with what it must be.

    Args:
        job: see `fresh_process.job_of`.
        how: `folder`, and one of `adapter` (the folder that it was made from; with `onto`, which
            weights of a quantized base), `digests` (sha256 of each tensor of the model that was in
            memory), `like` (the folder that it is a copy of).

    Returns:
        See `Proof.as_dict`.
    """
    network = _skeleton(job, str(how["folder"]))
    merged = Stored(Path(how["folder"]), network)
    found = Proof()
    _names(merged, found)
    if "like" in how:
        source = Stored(Path(how["like"]), _skeleton(job, str(how["like"])))
        _same(merged, {name: digest(source.get(name)) for name in source.names()}, found)
    elif "digests" in how:
        _same(merged, how["digests"], found)
    else:
        base = _base(job, how)
        known = formulas.read(Path(how["adapter"]), base.network)
        if known is None:
            found.formula = False
        else:
            _compare(merged, base, known, found)
    return found.as_dict()


def _skeleton(job: Mapping[str, Any], folder: str) -> Any:
    further = {"num_labels": job["num_labels"]} if job["num_labels"] else {}
    return skeleton(job["auto_class"], folder, job["trust_remote_code"], **further)


def _base(job: Mapping[str, Any], how: Mapping[str, Any]) -> Stored | Dequantized:
    network = _skeleton(job, job["base"])
    if not job.get("below") and (job["quantize"] == "none" or how.get("onto") == "original"):
        return Stored(Path(job["base"]), network)
    from tuner.export.proof import reload

    return Dequantized(reload.base(job), network)


def _names(merged: Stored, found: Proof) -> None:
    """Note tensors that are missing or belong to nothing."""
    aliases = tied(merged.network)
    ignored = merged.network._keys_to_ignore_on_load_missing or ()
    for name in merged.wanted:
        there = any(alias in merged for alias in aliases.get(name, {name}))
        if not there and not any(re.search(pattern, name) for pattern in ignored):
            found.problems.append(f"{name} is missing")
    found.problems += [f"{name} is not a tensor of this model" for name in merged.unknown]


def digest(tensor: torch.Tensor) -> str:
    """Return the sha256 of a tensor's bytes."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


def _same(merged: Stored, digests: Mapping[str, str], found: Proof) -> None:
    for name in sorted(merged.names()):
        found.tensors += 1
        if digest(merged.get(name)) != digests.get(name):
            found.problems.append(f"{name} is not the tensor that was trained")


def _compare(merged: Stored, base: Stored | Dequantized, known: Formulas, found: Proof) -> None:
    aliases = tied(merged.network)
    of_base = tied(base.network)
    seen: set[str] = set()
    for name in sorted(merged.names()):
        names = aliases.get(name, {name})
        stored = merged.get(name)
        found.tensors += 1
        formula = next((known[alias] for alias in sorted(names) if alias in known), None)
        there = names | set().union(*(of_base.get(alias, set()) for alias in names))
        source = next((alias for alias in sorted(there) if alias in base), None)
        start = None if source is None else base.get(source)
        if formula is not None:
            found.touched += 1
            found.dtypes.add(str(stored.dtype).removeprefix("torch."))
            seen |= names & set(known)
        if start is None and not (isinstance(formula, Replaced) and formula.rows is None):
            found.problems.append(f"{name} has no counterpart in the base")
            continue
        if start is not None and start.is_floating_point():
            start = start.to(stored.dtype)
        problem = _differs(merged.network, name, stored, start, formula, found)
        if problem:
            found.problems.append(f"{name} {problem}")
    found.problems += [
        f"{name}, which the adapter changes, is missing" for name in known.keys() - seen
    ]


def _differs(
    network: Any,
    name: str,
    stored: torch.Tensor,
    start: torch.Tensor | None,
    formula: Any,
    found: Proof,
) -> str:
    """Return what is wrong with a tensor; empty if it is what it must be."""
    if isinstance(formula, Replaced) or formula is None:
        wanted = _wanted(stored, start, formula)
        if wanted.shape != stored.shape or not _equal(wanted, stored):
            return "differs" if formula else "differs, though no adapter touches it"
        if formula is not None and start is not None:
            _account(stored, wanted, _grown(start, len(stored)), found)
        return ""
    assert start is not None
    owner = network.get_submodule(name.rpartition(".")[0])
    exact: Exact = formula(start.double(), transposed(owner))
    if exact.value.shape != stored.shape:
        return f"has the shape {tuple(stored.shape)}"
    low = (exact.value - exact.slack).to(stored.dtype)
    high = (exact.value + exact.slack).to(stored.dtype)
    outside = ~((stored >= low) & (stored <= high))
    _account(stored, exact.value, start, found)
    wrong = int(outside.sum())
    if not wrong:
        return ""
    largest = float((stored.double() - exact.value).abs().max())
    return f"differs at {wrong:,} of {stored.numel():,} values, by up to {largest:.2g}"


def _wanted(
    stored: torch.Tensor, start: torch.Tensor | None, formula: Replaced | None
) -> torch.Tensor:
    """Return what a tensor without an added update must be."""
    if formula is not None and formula.rows is None:
        return formula.load().to(stored.dtype)
    assert start is not None
    grown = _grown(start, len(stored)) if formula is not None else start
    if formula is not None and formula.rows is not None:
        grown = grown.clone()
        grown[formula.rows] = formula.load().to(stored.dtype)
    return grown


def _grown(start: torch.Tensor, rows: int) -> torch.Tensor:
    """Return an embedding with rows for new tokens, each the mean of those that were there."""
    if start.ndim == 0 or len(start) >= rows:
        return start
    mean = start.double().mean(0, keepdim=True).to(start.dtype)
    return torch.cat([start, mean.expand(rows - len(start), *start.shape[1:])])


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _account(stored: torch.Tensor, wanted: torch.Tensor, start: torch.Tensor, found: Proof) -> None:
    if stored.shape != start.shape:
        return
    change = wanted.double() - start.double()
    found.along += float(((stored.double() - start.double()) * change).sum())
    found.whole += float((change**2).sum())
