"""Footprint: the memory and disk of a run, and the micro-batch that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.tokens.collate import shared_prefix
from tuner.model import layers, trained_weights
from tuner.model.sizes import Sizes
from tuner.plan import decide, evaluations, optimizers, split, start_fit
from tuner.plan import qat as plan_qat
from tuner.plan.memory import activations, estimate, fit, folding
from tuner.plan.memory import exports as export_needs
from tuner.plan.memory import rlhf as memory_rlhf
from tuner.recipe import formats as export_formats
from tuner.record import disk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuner.machine.hardware import Machine
    from tuner.plan.data import Data
    from tuner.plan.decide import Decided
    from tuner.plan.ground import Adapted, RecipeAndBase
    from tuner.plan.rlhf import RlhfModels
    from tuner.plan.values import Values


@dataclass(frozen=True)
class Footprint:
    """Memory and disk of a run, and the settings chosen by them.

    Attributes:
        base: the recipe and its base.
        decided: its device and type.
        shape: of the whole run, for the estimates.
        held: the part that one process holds.
        quantized: the same on a base in 4 bits; None where not possible.
        weights: the tensors that are trained at one time.
        micro_batch_size: rows per forward pass.
        checkpointing: whether activations are recomputed.
        parties: policy and reward models that the recipe names.
    """

    base: RecipeAndBase
    decided: Decided
    shape: estimate.Workload
    held: estimate.Workload
    quantized: estimate.Workload | None
    weights: Mapping[str, layers.Weight]
    micro_batch_size: int
    checkpointing: bool
    parties: RlhfModels

    @classmethod
    def of(
        cls,
        base: RecipeAndBase,
        adapted: Adapted,
        data: Data,
        decided: Decided,
        machine: Machine,
        values: Values,
    ) -> Footprint:
        """Estimate the memory of a run, and choose its micro-batch accordingly.

        Raises:
            RecipeError, ResourceError: as `split.split`.
            ModelError: as `start_fit.refuse_size`.
        """
        recipe, method, processes = base.recipe, base.method, decided.processes
        weights = trained_weights.of(
            base.base, base.head.name, base.layers, method, decided.setting
        )
        shape = held = _shape(base, adapted, data, decided, weights)
        start_fit.refuse_size(base.start, shape.trainable)
        if processes.sharded:
            held = shape.share(processes.per_node)
        quantized = fit.in_4_bits(held, recipe, method, base.base, base.layers, adapted.targets)
        micro, again = split.split(base, decided, held, quantized, machine, values)
        return cls(base, decided, shape, held, quantized, weights, micro, again, data.parties)

    def on_gpus(self) -> dict[str, str]:
        """Return which settings fit GPUs of common sizes."""
        possible = split.recomputable(self.base.method, self.decided.packing)
        return fit.on_gpus(self.held, self.quantized, split.recomputes(self.base.recipe, possible))

    def refuse_exports(
        self, exports: tuple[str, ...], machine: Machine, output: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the disk and the memory that a run takes, its artefacts included.

        Args:
            exports: the formats that it writes.
            machine: what it runs on.
            output: the run folder.

        Raises:
            ResourceError: there is too little of one of them.
        """
        live = export_formats.live(exports, self.base.recipe.model.quantize)
        needs = export_needs.ExportInputs.of(
            self.base.recipe, exports, self.shape, self.base.layers
        )
        cuda = self.decided.device == "cuda"
        needs.refuse(machine.gpu_memory() if cuda else machine.memory_bytes)
        recipe = self.base.recipe
        # While a better one is written, the best checkpoint so far stays.
        kept = recipe.train.checkpoints + 2 * evaluations.keeps_best(recipe.eval)
        space = needs.disk(estimate.disk(self.shape, live, kept))
        if not machine.elsewhere:
            disk.require_space(output, space["total"] - disk.folder_bytes(output))
        peak = estimate.estimate(self.held, self.micro_batch_size, self.checkpointing)
        export_peak = needs.peak(estimate.export_peak(self.shape, live))
        memory = estimate.facts(peak, export_peak, memory_rlhf.drawing_peak(self.held))
        if recipe.rlhf is not None:
            size = self.micro_batch_size
            memory |= memory_rlhf.reference(self.held, size, recipe.rlhf, self.parties)
        if begun := folding.peak(self.shape, self.base.base, self.base.layers):
            memory |= {"folding": begun, "peak": max(memory["peak"], begun)}
        return space, memory


def _shape(
    base: RecipeAndBase,
    adapted: Adapted,
    data: Data,
    decided: Decided,
    weights: Mapping[str, layers.Weight],
) -> estimate.Workload:
    """Return what the estimates need to know about a run."""
    recipe, method, found, skeleton = base.recipe, base.method, base.base, base.layers
    trained, dtype = data.prepared.train, decided.dtype
    ordered = [trained[row] for row in split.order(recipe, len(trained), decided.stages)]
    together = (
        decided.packing and base.loaded.task == "sft" and decide.shares(recipe, method, found)
    )
    kept = activations.kept(recipe, method, found.config, skeleton.linears, adapted.targets)
    own_rows = bool(base.new_ids) and method.adapter
    own_rows_bytes = _trained_rows(base.vocabulary, found.config) if own_rows else 0
    shape = estimate.Workload(
        parameters=skeleton.total,
        trainable=trained_weights.numbers(weights),
        state=optimizers.OPTIMIZERS[recipe.train.optimizer].bytes_of(weights.values()),
        averages=optimizers.OPTIMIZERS[recipe.train.optimizer].averages,
        adapter=method.adapter,
        dtype=dtype,
        stored=dtype if recipe.model.quantize == "none" else recipe.model.quantize,
        vocabulary=base.vocabulary,
        kept=kept,
        rows=estimate.RowLengths(
            lengths=[example.num_tokens for example in ordered],
            targets=[example.num_targets for example in ordered],
            batch=decided.processes.share(recipe.train.batch_size),
            packed=decided.packing,
            shared=shared_prefix(trained) if together else 0,
        ),
        device=decided.device,
        requantized=plan_qat.weights(recipe.train.qat, skeleton),
        full_precision=0 if recipe.model.quantize == "none" else skeleton.unquantized,
        others=own_rows_bytes,
        eager_heads=Sizes.of(found.config).heads if decided.attention == "eager" else 0,
        mapped=split.mapped(recipe, found, decided.device, dtype, skeleton.total),
    )
    if recipe.rlhf is not None:
        shape = memory_rlhf.whole(shape, recipe, data.prepared, ordered, data.parties, found)
    return shape


def _trained_rows(words: int, config: Mapping[str, Any]) -> int:
    """Return the bytes that training single rows of embedding and head takes: peft copies both
    matrices in every pass, and their gradients are full-size."""
    return 4 * 4 * words * Sizes.of(config).hidden
