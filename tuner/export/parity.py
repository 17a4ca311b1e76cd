"""The proof of what a run writes at its end, against the model that was trained.

An adapter's file holds the trained tensors bit for bit. A merged model's tensors are proven by the
method's formula (`proof`). The logits of the reloaded model must be as close to those of the same
weights here as two passes over these are to each other (`noise`). How far they are from the tuned
model with its unmerged adapter is what rounding the weights costs: it is reported.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import IntegrityError
from tuner.export import adapter, exact
from tuner.export.pipeline import About
from tuner.export.proof import (
    fresh_process,
    measure,
    noise,
    prompts,
    reload,
    same_adapter,
    tensors,
)
from tuner.export.proof import rows as held
from tuner.export.proof.noise import ReadingDistance
from tuner.machine import heap
from tuner.machine.imports import function
from tuner.methods import lora
from tuner.model.folded import CHAIN
from tuner.recipe.formats import ExportFormat
from tuner.record.proof_limits import APART

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.tasks.trained import Trained

Logits = Sequence[torch.Tensor]
# What run.json says about an artefact besides its file.
SHOWN = ("proof", "dtype", "weights_kept", "answers_kept", "kl", "mean_logit_difference")


class Live:
    """A trained model while its artefacts are written, and what they are compared with.

    Args:
        plan: of the run.
        trained: the live model; merged into its base if that is asked for, and freed by `reload`.
        fingerprint: of the base.
        aside: an empty folder.
    """

    def __init__(self, plan: Plan, trained: Trained, fingerprint: str, aside: Path) -> None:
        self.plan, self.trained, self._aside = plan, trained, aside
        run = {"plan": plan.as_dict(), **trained.measured}
        chain = {CHAIN: plan.start.chain(plan.output)} if plan.start else {}
        facts = fresh_process.facts_of(plan)
        self.about = About(plan.base.name, fingerprint, facts, run, chain)
        self._rows = fresh_process.probe_rows(plan)
        # How a fresh process proves the tensors of an artefact, by format.
        self._proofs: dict[str, dict[str, Any]] = {}
        self._problems: dict[str, list[str]] = {}
        self._written: dict[str, tuple[Logits, ReadingDistance]] = {}
        self._adapter: Path | None = None
        trained.model.eval()
        self._tuned = self._read(trained.model)
        self._base = self._untouched(trained.model)

    def _read(self, model: Any) -> tuple[Logits, ReadingDistance]:
        """Return the logits of the probe rows, and their noise."""
        return fresh_process.logits(model, self._rows), noise.measured(model, self._rows)

    def _untouched(self, model: Any) -> Logits | None:
        """Return the logits of the base, if there is one whose answers are meaningful."""
        plan = self.plan
        if not plan.method.adapter or plan.head.added or lora.moves_base(plan.recipe.method):
            return None
        with model.disable_adapter():
            return fresh_process.logits(model, self._rows)

    def write(self, row: ExportFormat, folder: Path) -> None:
        """Write an artefact, and record what it must be."""
        name, exporter = row.name, function(row.live)
        moved = lora.moves_base(self.plan.recipe.method)
        if name == "adapter":
            exporter(self.plan, self.trained, folder)
            self._adapter = folder
            self._check_adapter(folder)
            if moved:
                self._put_on_untouched_base(folder)
        elif name == "merged" and self.plan.method.adapter:
            if self._adapter is None or self._problems["adapter"]:
                put = moved and self._adapter is None
                self._adapter = self._written_aside()
                if put:
                    self._put_on_untouched_base(self._adapter)
            self._proofs[name] = {"folder": str(folder), "adapter": str(self._adapter)}
            exporter(self.plan, self.trained, folder)
            self._written[name] = self._read(self.trained.model)
        elif name == "merged":
            state = self.trained.model.state_dict().items()
            digests = {key: tensors.digest(tensor) for key, tensor in state}
            self._proofs[name] = {"folder": str(folder), "digests": digests}
            exporter(self.plan, self.trained, folder)
        else:
            exporter(self.plan, self.trained, folder)
        self._written.setdefault(name, self._tuned)

    def _written_aside(self) -> Path:
        """Write an adapter to prove the merge by: none was asked for, or that one is refused."""
        refused = self._problems.pop("adapter", None)
        folder = self._aside / "adapter"
        folder.mkdir()
        adapter.write_adapter(self.plan, self.trained, folder)
        self._check_adapter(folder)
        self._problems["merged"] = self._problems.pop("adapter")
        if refused is not None:
            self._problems["adapter"] = refused
        return folder

    def _check_adapter(self, folder: Path) -> None:
        start = self.trained.start_state or None
        self._problems["adapter"] = same_adapter.as_trained(self.trained.model, folder, start)

    def _put_on_untouched_base(self, folder: Path) -> None:
        """Continue with the converted adapter on the base's own weights.

        Subtracting a start (PiSSA, OLoRA) from the base rounded every weight of it. The exported
        adapter works on the unrounded weights: so must what it is compared with, and the merge.
        """
        from tuner.model import embedding_rows

        self.trained.model = None
        model = embedding_rows.load_adapter_onto(
            reload.base(fresh_process.job_of(self.plan, [], {}, {})), str(folder)
        )
        self.trained.model = model.eval()
        self._written["adapter"] = self._read(model)
        if not self.plan.head.added:
            with model.disable_adapter():
                self._base = fresh_process.logits(model, self._rows)

    def reload(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Return the logits of the probe rows from a fresh process, and what it found in the
        tensors (see `tensors.prove`) and prompts, by format."""
        # Its memory goes to the fresh process: a GPU may have no room for both.
        free_model(self.trained)
        return dict(fresh_process.fresh_logits(self.plan, folders, self._rows, self._proofs))

    def judge(self, row: ExportFormat, folder: Path, found: Any) -> dict[str, Any]:
        """Return what was proven about an artefact, for its manifest.

        Raises:
            IntegrityError: it is not what was trained.
        """
        name, (fresh, proven, other_prompts) = row.name, found
        prompts.refuse(name, other_prompts, prompts.REPORT)
        dtype = self.about.facts["dtype"]
        written = self._written[name]
        problems = self._problems.get(name, ())
        near = exact.same(partial(_refused, name), fresh, written, dtype, proven, problems)
        tuned = self._tuned[0]
        off = noise.apart(fresh, tuned)
        report: dict[str, Any] = {
            "verified": True,
            "dtype": dtype,
            "max_logit_difference": max(
                float((one - other).abs().max()) for one, other in zip(fresh, tuned, strict=True)
            ),
            "mean_logit_difference": off.mean,
            "kl": off.kl,
            "noise": near,
            "weights_kept": proven["weights_kept"]
            if proven and "adapter" in self._proofs[name]
            else None,
            "answers_kept": self._answers(off.kl),
            "witness": self._witness(fresh),
        }
        return report | {"proof": self._proof(name, proven, off, report)}

    def _proof(
        self, name: str, proven: dict[str, Any] | None, off: ReadingDistance, report: dict[str, Any]
    ) -> str:
        """Return equal, rounded or checked."""
        merges = proven is not None and "adapter" in self._proofs[name]
        moved = lora.moves_base(self.plan.recipe.method)
        if report["dtype"] == "float32" and not off.kl <= APART:
            raise _refused(name, f"the KL of its answers from the tuned model's is {off.kl:.3g}")
        if merges and exact.unproven(partial(_refused, name), proven, report["answers_kept"]):
            return "checked"
        if report["dtype"] == "float32" or not (merges or moved):
            return "equal"
        return "rounded" if merges else "checked"

    def _answers(self, kl: float) -> float | None:
        """Return the share of the change in answers that is kept; None if nothing changed."""
        if self._base is None:
            return None
        return measure.answers_kept(kl, noise.apart(self._base, self._tuned[0]).kl)

    def _witness(self, fresh: Logits) -> dict[str, Any]:
        """Return the witness of the random rows, which come last among the probes."""
        rows = held.of_plan_random(self.plan)
        first = -len(rows.rows)
        tuned, found = (held.at(rows, logits[first:]) for logits in (self._tuned[0], fresh))
        return held.witness(rows, tuned, found)


def free_model(trained: Trained) -> None:
    """Free the live model: what comes next reads from the disk."""
    trained.model = trained.judge = None
    trained.start_state = {}
    gc.collect()
    heap.give_back()
    heap.keep_nothing()


def _refused(name: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"the {name} artefact is not the model that was trained",
        f"{why}; it was not kept",
        "the last checkpoint holds the trained weights; please report this with run.json",
    )
