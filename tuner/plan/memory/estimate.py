"""Peak memory of a run, and the disk it takes.

Weights, gradients and the optimizer's state are counted exactly; activations as `activations`
counts them, for the micro-batches that the run will really see. Only constants are measured: what
the libraries take, and what glibc's heap cannot use again between two layers. `fit` chooses the
settings of a run by this estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from tuner.plan.memory import activations
from tuner.record.checkpoint_folder import KEPT

MIB = 1 << 20

# Python, torch, transformers, peft and accelerate, imported: resident memory of a process.
LIBRARIES = 550 * MIB

# Holes that glibc's heap keeps between tensors of different sizes, as a share of the activations
# (before recomputation, which frees them but leaves the holes), with LoRA's modules and without.
# Measured in float32 on SmolLM2-135M, 800 to 1,700 tokens, large blocks aligned (see `heap`):
# 0.35 to 0.87 (one run differs from the next by as much: threads decide), and 0.12 to 0.57.
_LORA_HOLES, _PLAIN_HOLES = 0.61, 0.32

# bitsandbytes on a CPU dequantizes all weights in every pass: holes as a share of them.
_DEQUANTIZED_HOLES = 1.0

# Not measured: what a GPU's allocator loses by rounding up, and what CUDA's context with the
# workspaces of its libraries takes in each process.
_GPU_HOLES = 0.05
CONTEXT = 800 * MIB

# Rows of logits that the loss copies at a time.
_LOSS_ROWS = 128
# Rows, and tokens per row, for comparing artefacts with the live model (see `export.proof`).
PROBE_ROWS, PROBE_TOKENS = 4, 256
# Bytes of a weight, by how it is stored.
WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.55}


@dataclass(frozen=True)
class Estimate:
    """Peak memory of a training step in bytes, by purpose.

    Attributes:
        process: the interpreter and its libraries on a CPU; CUDA's context on a GPU.
        weights: base and adapter.
        gradients: of what is trained.
        optimizer: its state, such as AdamW's two moments.
        activations: what backward needs of the largest micro-batch.
        logits: its scores over the vocabulary.
        holes: freed memory between tensors that nothing fits into.
    """

    process: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    holes: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, int]:
        """Return the parts and their sum."""
        return {**asdict(self), "total": self.total}


def facts(step: Estimate, export: int, drawing: int) -> dict[str, int]:
    """Return what a plan shows: the parts of the largest step, the other phases, the peak.

    Args:
        step: the estimate.
        export: while artefacts are proven.
        drawing: while answers are sampled; 0 where none are.
    """
    extra = {"drawing": drawing} if drawing else {}
    return {**step.as_dict(), **extra, "export": export, "peak": max(step.total, export, drawing)}


@dataclass(frozen=True)
class RowLengths:
    """The training rows in the order of the run, in tokens.

    Attributes:
        lengths: of each row.
        targets: how many of them are learned.
        batch: rows of an optimizer step.
        packed: whether a micro-batch is one sequence without padding.
        shared: tokens that all rows begin with and that are computed once.
    """

    lengths: Sequence[int]
    targets: Sequence[int]
    batch: int = 1
    packed: bool = True
    shared: int = 0
    _cuts: dict[int, tuple[np.ndarray, ...]] = field(default_factory=dict, init=False, repr=False)

    def cut(self, size: int) -> tuple[np.ndarray, ...]:
        """Return micro-batches of up to `size` rows: tokens that are computed, tokens as attention
        sees them, positions with logits, rows, and the sum of squared lengths; (count,) each.

        Cached, since a plan looks at the same size for several devices.
        """
        if size not in self._cuts:
            self._cuts[size] = self._cut(size)
        return self._cuts[size]

    def _cut(self, size: int) -> tuple[np.ndarray, ...]:
        lengths, targets = (
            self._in_micro_batches(values, size) for values in (self.lengths, self.targets)
        )
        count = (lengths > 0).sum(axis=1)
        if self.packed:
            seen, kept = lengths.sum(axis=1), targets.sum(axis=1)
        else:
            seen, kept = lengths.max(axis=1) * count, targets.max(axis=1) * count
        computed = seen - np.maximum(count - 1, 0) * self.shared
        return computed, seen, kept, count, (lengths**2).sum(axis=1)

    def _in_micro_batches(self, values: Sequence[int], size: int) -> np.ndarray:
        """Return (micro-batches, size), zero where the last of a step has fewer rows."""
        given = np.asarray(values, dtype=np.int64)
        steps = max(1, -(-len(given) // self.batch))
        whole = np.zeros(steps * self.batch, dtype=np.int64)
        whole[: len(given)] = given
        a_step = -(-self.batch // size)
        padded = np.zeros((steps, a_step * size), dtype=np.int64)
        padded[:, : self.batch] = whole.reshape(steps, self.batch)
        return padded.reshape(-1, size)


@dataclass(frozen=True)
class Workload:
    """What the estimate needs to know about a model and its data.

    Weights that are quantized again in every step (`requantized`) are held twice. `full_precision`
    are the weights that quantization leaves alone, `others` the bytes of what is in memory next to
    the model in training, `mapped` those of a file that stays mapped into memory, `drawing` what it
    takes to sample answers, `eager_heads` the heads whose scores are kept (`activations.scores`),
    `state` what the optimizer keeps; `averages`: what is kept of it are averages of the weights.
    """

    parameters: int
    trainable: int
    adapter: bool
    dtype: str
    stored: str
    vocabulary: int
    kept: activations.KeptActivations
    rows: RowLengths
    device: str = "cpu"
    requantized: int = 0
    full_precision: int = 0
    others: int = 0
    mapped: int = 0
    drawing: int = 0
    eager_heads: int = 0
    state: int = 0
    averages: bool = False

    @property
    def process(self) -> int:
        """Bytes of a process without a model."""
        return LIBRARIES if self.device == "cpu" else CONTEXT

    @property
    def row_kernel(self) -> bool:
        """Whether attention is the GPU's kernel for packed rows, which keeps no mask."""
        return self.device == "cuda" and self.rows.packed and self.dtype == "bfloat16"

    def share(self, processes: int) -> Workload:
        """Return what one of several processes holds that share the base."""
        return replace(self, parameters=self.parameters // processes)

    @property
    def saved_width(self) -> float:
        """Bytes of a saved weight: a model that is trained itself is saved as float32."""
        return WIDTHS[self.dtype] if self.adapter else 4.0

    @property
    def weights(self) -> int:
        """Bytes of base and adapter while training."""
        width, stored = WIDTHS[self.dtype], WIDTHS[self.stored]
        # A base whose own weights are trained is held in float32, whatever the compute type.
        base = (self.parameters - self.full_precision) * (stored if self.adapter else 4.0)
        base += self.mapped or self.full_precision * width
        base += self.requantized * width
        if self.device == "cuda" and not self.adapter and self.dtype != "float32":
            # Autocast keeps its copies of what is trained from forward to backward.
            base += self.trainable * width
        return int(base + 4 * self.trainable * self.adapter + self.others)


def estimate(shape: Workload, micro_batch_size: int, checkpointing: bool) -> Estimate:
    """Estimate the peak memory of the largest training step.

    Args:
        shape: model and data.
        micro_batch_size: rows per forward pass.
        checkpointing: whether activations are recomputed, keeping one vector per token and layer.
    """
    width, kept = WIDTHS[shape.dtype], shape.kept
    computed, seen, targets, count, squares = shape.rows.cut(micro_batch_size)
    before = count * kept.virtual
    tokens = computed + before * kept.computed
    layered = tokens * (kept.token * width + kept.exact * 4)
    if shape.device == "cpu" and shape.rows.packed and not kept.masked:
        layered = layered + tokens * kept.attended * width
    else:
        layered = layered + (seen + before) * kept.place * width
    layered = layered + activations.scores(shape.eager_heads, seen + before, count, width)
    if kept.masked and not shape.row_kernel:
        layered = layered + kept.layers * (squares + kept.virtual * seen) * width
    whole = layered
    if checkpointing:
        layered = tokens * kept.boundary * width + layered / max(1, kept.layers)
    logits = targets * shape.vocabulary * _score_width(shape)
    logits = logits + np.minimum(targets, _LOSS_ROWS) * shape.vocabulary * 8
    # The logits are gone when the layers are computed backward.
    passing = tokens * kept.passing * width
    last = np.maximum(logits, passing)
    worst = int((layered + last).argmax()) if len(layered) else 0
    largest, top, held = (
        float(part[worst]) if len(part) else 0.0 for part in (layered, last, whole)
    )
    quantized = shape.parameters - shape.full_precision if shape.full_precision else 0
    holes = _GPU_HOLES * held
    if shape.device == "cpu":
        holes = held * (_LORA_HOLES if kept.low else _PLAIN_HOLES)
        holes += _DEQUANTIZED_HOLES * quantized * width
    return Estimate(
        process=shape.process,
        weights=shape.weights,
        gradients=shape.trainable * 4,
        optimizer=shape.state,
        activations=int(largest),
        logits=int(top),
        holes=int(holes),
    )


def disk(shape: Workload, formats: Sequence[str], kept: int = KEPT) -> dict[str, int]:
    """Return the bytes that a run writes at most, by purpose.

    Args:
        shape: model and data.
        formats: the artefacts that will be exported.
        kept: checkpoints; there is one more while the next is written.
    """
    # Trained tensors in float32, the optimizer's state and, next to averages, the weights that
    # training continues from.
    saved = 4 * shape.trainable * (1 + shape.averages) + shape.state
    checkpoints = (kept + 1) * (saved + (1 << 20))
    sizes = dict.fromkeys(("adapter", "virtual_tokens"), 4.0 * shape.trainable)
    sizes["merged"] = shape.saved_width * shape.parameters
    # Their logits are on the disk while they are compared.
    proof = len(formats) * _probe_tokens(shape) * shape.vocabulary * 4
    artefacts = int(sum(sizes[name] for name in formats)) + (32 << 20)  # and configs, records
    parts = {"checkpoints": checkpoints, "artefacts": artefacts, "proof": proof}
    return {**parts, "total": sum(parts.values())}


def export_peak(shape: Workload, formats: Sequence[str]) -> int:
    """Return the bytes while artefacts are written and compared, after gradients are freed.

    The logits of the probe rows are held for the live model, its base, the merged model and every
    reloaded artefact, once more while they are read.
    """
    weights = shape.weights - shape.others
    logits = 4 * _probe_tokens(shape) * shape.vocabulary
    held = 1 + shape.adapter + ("merged" in formats and shape.adapter) + 2 * len(formats)
    live = shape.process + weights + logits * (held + 1)
    # The live model is off the GPU when the fresh process loads an artefact there; this process
    # still has CUDA's context.
    fresh = 2 * shape.process + weights + logits if shape.device == "cuda" and formats else 0
    return int(max(live, fresh))


def _score_width(shape: Workload) -> float:
    """Return the bytes of a logit at the peak; on a GPU accelerate makes a float32 copy of it."""
    width = WIDTHS[shape.dtype]
    return width + 4 if shape.device == "cuda" and shape.dtype != "float32" else width


def _probe_tokens(shape: Workload) -> int:
    longest = sorted(shape.rows.lengths)[-PROBE_ROWS:]
    return sum(min(length, PROBE_TOKENS) for length in longest)
