"""A first estimate of peak memory, the micro-batch that fits, and the disk a run takes.

Weights, gradients and AdamW's two moments are counted exactly; activations by the matrices that
backward needs per token and layer. `SHARE` of the device is used, the rest is left to the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SHARE = 0.6
# Per token and layer: vectors of hidden size, and of the MLP's inner size, that backward keeps.
_HIDDEN_VECTORS = 14
_INNER_VECTORS = 8
# The logits, their float copy and their gradient.
_LOGIT_COPIES = 3
# Checkpoints that stay; one more stands while the next is written.
KEPT = 2
# Rows and tokens a row by which artefacts are compared with the live model (see `export.verify`).
PROBE_ROWS, PROBE_TOKENS = 4, 256
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.55}


@dataclass(frozen=True)
class Estimate:
    """Peak memory in bytes, by what it is for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, int]:
        """The parts and their sum."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Shape:
    """What the estimate needs to know of a model and its data.

    Weights that are quantized anew in every step (`requantized`) are held twice.
    """

    parameters: int
    trainable: int
    adapter: bool
    dtype: str
    stored: str
    hidden: int
    inner: int
    layers: int
    vocabulary: int
    lengths: Sequence[int]
    supervised: Sequence[int]
    requantized: int = 0


def shape_of(config: dict[str, Any]) -> tuple[int, int, int]:
    """Hidden size, inner size of the MLP and number of layers, by the names configs use."""
    hidden = int(config.get("hidden_size") or config.get("n_embd") or 0)
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * hidden
    # Some families give every layer a size of its own.
    inner = int(max(inner) if isinstance(inner, list) else inner)
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    return hidden, inner, layers


def estimate(shape: Shape, micro_batch_size: int, checkpointing: bool) -> Estimate:
    """Peak of one training step whose micro-batch holds the longest rows.

    Args:
        shape: model and data.
        micro_batch_size: rows per forward pass.
        checkpointing: whether activations are recomputed, keeping one vector a token and layer.
    """
    width = _BYTES[shape.dtype]
    tokens = sum(sorted(shape.lengths)[-micro_batch_size:])
    targets = sum(sorted(shape.supervised)[-micro_batch_size:])
    per_layer = _HIDDEN_VECTORS * shape.hidden + _INNER_VECTORS * shape.inner
    kept = shape.layers * shape.hidden + per_layer if checkpointing else shape.layers * per_layer
    extra = shape.trainable if shape.adapter else 0
    return Estimate(
        # A base whose own weights are trained is held in float32, whatever it computes in.
        weights=int(
            shape.parameters * (_BYTES[shape.stored] if shape.adapter else 4)
            + shape.requantized * width
            + extra * 4
        ),
        gradients=shape.trainable * 4,
        optimizer=shape.trainable * 8,
        activations=int(tokens * kept * width),
        logits=int(_LOGIT_COPIES * targets * shape.vocabulary * 4),
    )


def fit(shape: Shape, batch_size: int, budget: int, checkpointing: bool) -> int:
    """The largest micro-batch that divides `batch_size` and fits `budget` bytes; 0 if none does."""
    for size in range(batch_size, 0, -1):
        if batch_size % size == 0 and estimate(shape, size, checkpointing).total <= budget:
            return size
    return 0


def disk(shape: Shape, formats: Sequence[str]) -> dict[str, int]:
    """Bytes that a run writes at most, by what for.

    Args:
        shape: model and data.
        formats: the artefacts that will be exported.
    """
    # AdamW's two moments stand beside each trained tensor; all three are float32.
    checkpoints = (KEPT + 1) * (12 * shape.trainable + (1 << 20))
    width = _BYTES[shape.dtype] if shape.adapter else 4.0
    adapter = 4.0 * shape.trainable
    sizes = {"adapter": adapter, "virtual_tokens": adapter, "merged": width * shape.parameters}
    # Their logits, in float64 where sums are reordered, lie on the disk while they are compared.
    tokens = sum(min(length, PROBE_TOKENS) for length in sorted(shape.lengths)[-PROBE_ROWS:])
    proof = len(formats) * tokens * shape.vocabulary * 8
    # Tokenizer, configs, records.
    artefacts = int(sum(sizes[name] for name in formats)) + (32 << 20)
    parts = {"checkpoints": checkpoints, "artefacts": artefacts, "proof": proof}
    return {**parts, "total": sum(parts.values())}
