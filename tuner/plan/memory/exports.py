"""Memory and disk, in bytes, of formats that are made from a sealed adapter or model.

They are made one after the other, by a process that has freed the trained model; another one then
reads each artefact. The formats of the live model are counted in `estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.errors import ResourceError
from tuner.plan.memory import estimate
from tuner.recipe import formats as export_formats
from tuner.recipe.formats import FORMATS, GGUF, ExportFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuner.model.layers import Skeleton
    from tuner.plan.memory.estimate import Workload
    from tuner.recipe.schema import Recipe

# Positions in held-out and random rows for which all logits are kept (see `export.work`), and the
# bytes of an entry while three models are compared.
PLACES, _COMPARED = 512 + 16, 36
# Second moments of GPTQ, and a file that safetensors copies before it writes it.
_MOMENTS, _SHARD = 2 << 30, 2_000_000_000
# Minimum bits of a GGUF file's output matrix; an unquantized one has those of its type.
_MATRIX_BITS = 8.5
_PLAIN_BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0}


@dataclass(frozen=True)
class ExportInputs:
    """The formats that are made, and what they are made from.

    Attributes:
        formats: their names.
        shape: of the model that is trained.
        whole: weights that quantization leaves alone.
        merged: whether the run writes a merged model, which is then used.
        quantize: `model.quantize`.
        onto: `export.onto`.
    """

    formats: tuple[str, ...]
    shape: Workload
    whole: int
    merged: bool
    quantize: str
    onto: str

    @classmethod
    def of(
        cls, recipe: Recipe, formats: tuple[str, ...], shape: Workload, skeleton: Skeleton
    ) -> ExportInputs:
        """Return the needs of a plan whose run writes these formats."""
        quantize = recipe.model.quantize
        made = export_formats.made(formats, quantize)
        sealed = "merged" in formats or not shape.adapter
        return cls(made, shape, skeleton.unquantized, sealed, quantize, recipe.export.onto)

    def disk(self, parts: Mapping[str, int]) -> dict[str, int]:
        """Return the maximum bytes on disk: those of the run's other parts, with these added."""
        if not self.formats:
            return dict(parts)
        aside = max(self._aside(FORMATS[name]) for name in self.formats)
        if not self.merged and any(map(export_formats.needs_merge, self.formats)):
            aside += self._weights
        added = {
            "artefacts": parts["artefacts"] + sum(self.bytes(name) for name in self.formats),
            "proof": max(parts["proof"], PLACES * self.shape.vocabulary * 4),
            "conversion": aside,
        }
        found = {key: size for key, size in {**parts, **added}.items() if key != "total"}
        return {**found, "total": sum(found.values())}

    def bytes(self, name: str) -> int:
        """Return the bytes of an artefact's weights."""
        row, parameters = FORMATS[name], self.shape.parameters
        if name == f"{GGUF}-adapter":
            return 4 * self.shape.trainable
        if row.llama_type:
            bits = row.bits or _PLAIN_BITS[row.llama_type]
            matrix = max(bits, _MATRIX_BITS)
            return int((bits * (parameters - self.whole) + matrix * self.whole) / 8)
        if row.bits is None:
            return self._weights
        return int(row.bits / 8 * (parameters - self.whole) + self.shape.saved_width * self.whole)

    def peak(self, live: int) -> int:
        """Return the peak memory of the process that exports and of the one that proves.

        Args:
            live: while the formats of the live model are written.
        """
        return max(live, *map(self._memory, self.formats), self._merging) if self.formats else live

    def refuse(self, available: int) -> None:
        """Refuse formats that this machine has no memory for.

        Raises:
            ResourceError: names the largest.
        """
        largest = max(self.formats, key=self._memory, default=None)
        if largest is not None and (need := self.peak(0)) > available:
            where = "GPU" if self.shape.device == "cuda" else "machine"
            raise ResourceError(
                f"the formats of export.formats do not fit into the memory of this {where}",
                f"they need about {need / 2**30:.1f} GiB, most of it for {largest}; there is "
                f"{available / 2**30:.1f} GiB",
                "leave it out, and export it on a larger machine: tuner export RUN --format "
                f"{largest}",
            )

    @property
    def _weights(self) -> int:
        return int(self.shape.saved_width * self.shape.parameters)

    @property
    def _logits(self) -> int:
        return PLACES * self.shape.vocabulary * 4

    @property
    def _merging(self) -> int:
        """While the adapter is merged into its base."""
        stored = estimate.WIDTHS[self.shape.stored] * self.shape.parameters
        copies = 0.0
        if self.quantize != "none" and any(map(export_formats.needs_merge, self.formats)):
            # Each choice is merged and measured, next to the model that was trained.
            # On a GPU's machine the one that was measured waits in main memory.
            both = self.onto == "auto" and self.shape.device == "cpu"
            copies = stored + self._weights * (2 if both else 1)
        elif not self.merged:
            copies = min(_SHARD, self._weights)
        own = max(stored, 0.0 if self.shape.adapter else self._weights)
        adapter = 4 * self.shape.trainable * self.shape.adapter
        return int(self.shape.process + own + adapter + copies + 3 * self._logits)

    def _memory(self, name: str) -> int:
        """Return the bytes while one format is written, or read by another process and compared."""
        row, compared = FORMATS[name], PLACES * self.shape.vocabulary * _COMPARED
        if row.name == "merged":
            return self.shape.process * 2 + 3 * self._logits + max(self._weights, compared)
        held = self.shape.process + 2 * self._logits
        writing = self._writing(row)
        proving = self.shape.process + self._reading(row) + self._logits
        return int(held + max(writing, proving, compared))

    def _writing(self, row: ExportFormat) -> float:
        matrix = 4 * self.whole
        if export_formats.needs_converter(row):
            # Tensor by tensor, in a process of llama.cpp.
            return self.shape.process + 2 * matrix
        quantized = self.bytes(row.name)
        if row.name == "int4":
            return self._weights + quantized + min(_MOMENTS, self._weights)
        return self._weights + 2 * quantized

    def _reading(self, row: ExportFormat) -> float:
        """Return the bytes of the artefact in memory: GGUF as float32, twice while it is read."""
        if row.name == f"{GGUF}-adapter" or row.llama_type:
            return 8 * self.shape.parameters
        return 2 * self.bytes(row.name) + self.shape.saved_width * self.whole

    def _aside(self, row: ExportFormat) -> int:
        """Return the bytes of files that exist only while a format is made."""
        if row.name == f"{GGUF}-adapter":
            return 4 * self.shape.parameters
        if row.packages and row.llama_type:
            return int((4 if self.shape.saved_width == 4.0 else 2) * self.shape.parameters)
        return 0
