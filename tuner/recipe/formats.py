"""FORMATS: the formats that a trained model can be exported to, with their limits.

Each format has one row here and one file in `tuner/export/`. Names and numbers only, so that a plan
and a command line can refuse without loading torch: the functions of a row are imported when they
run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.errors import ModelError, RecipeError
from tuner.machine import packages
from tuner.machine.imports import Place

GGUF = "gguf"


@dataclass(frozen=True)
class ExportFormat:
    """A format of `tuner export`.

    Attributes:
        name: as the user writes it, and the name of its folder.
        what: one line for help.
        packages: modules that it needs.
        bits: per quantized weight, scales included; None where nothing is quantized.
        divergence: largest mean KL to the tuned model, in nats per token; None where the logits
            themselves must agree.
        llama_type: type of a GGUF file, as llama.cpp calls it.
        live: writes it from the live model at the end of a run; called with (plan, trained,
            folder).
        write: makes it from a sealed adapter or model; called with (row, work, folder).
        of_adapter: whether it is made from an adapter, not from a merged model.
        card: whether it gets a README.md, as quantized formats do.
    """

    name: str
    what: str
    packages: tuple[str, ...] = ()
    bits: float | None = None
    divergence: float | None = None
    llama_type: str = ""
    live: Place = ""
    write: Place = ""
    of_adapter: bool = False
    card: bool = False

    @property
    def exact(self) -> bool:
        """Whether the artefact holds the trained weights themselves."""
        return self.divergence is None


def _gguf(kind: str, bits: float | None, divergence: float) -> ExportFormat:
    # The converter writes these itself; the rest is quantized by llama.cpp.
    plain = kind in ("f32", "f16", "bf16", "q8_0")
    return ExportFormat(
        GGUF if kind == "f16" else f"{GGUF}-{kind}",
        f"one GGUF file of type {kind}, with an Ollama Modelfile",
        packages=() if plain else ("llama_cpp",),
        bits=bits,
        divergence=divergence,
        llama_type=kind,
        write="tuner.export.gguf.model:write_gguf",
    )


_ROWS = (
    ExportFormat(
        "adapter",
        "the adapter, as peft saves it",
        live="tuner.export.adapter:write_adapter",
        write="tuner.export.adapter:write_again",
        of_adapter=True,
        card=True,
    ),
    ExportFormat(
        "virtual_tokens",
        "the learned prompt of a prompt method, as plain tensors",
        live="tuner.export.virtual_tokens:write_virtual_tokens",
    ),
    ExportFormat(
        "merged",
        "the whole model with the adapter merged in",
        live="tuner.export.merged:write_merged",
        write="tuner.export.merged:write_again",
        card=True,
    ),
    ExportFormat(
        "gguf-adapter",
        "a LoRA for llama.cpp, used with the base's GGUF file",
        ("llama_cpp",),
        divergence=1e-3,
        write="tuner.export.gguf.adapter:write_gguf_adapter",
        of_adapter=True,
    ),
    ExportFormat(
        "int8",
        "bitsandbytes LLM.int8()",
        ("bitsandbytes",),
        8.5,
        0.1,
        write="tuner.export.bnb:write_int8",
    ),
    ExportFormat(
        "nf4",
        "bitsandbytes NF4, double quantized",
        ("bitsandbytes",),
        4.6,
        0.5,
        write="tuner.export.bnb:write_nf4",
    ),
    ExportFormat(
        "int8-torchao",
        "torchao int8, weights only",
        ("torchao",),
        8.5,
        0.05,
        write="tuner.export.torchao_int8:write_torchao_int8",
    ),
    ExportFormat(
        "int4",
        "4-bit GPTQ with group scales",
        ("compressed_tensors",),
        5.1,
        0.5,
        write="tuner.export.int4:write_int4",
    ),
    _gguf("f32", None, 1e-4),
    _gguf("f16", None, 1e-3),
    _gguf("bf16", None, 0.02),
    _gguf("q8_0", 8.5, 0.05),
    _gguf("q6_k", 6.6, 0.1),
    _gguf("q5_k_m", 5.7, 0.25),
    _gguf("q5_0", 5.5, 0.25),
    _gguf("q5_1", 6.0, 0.25),
    _gguf("q4_k_m", 4.9, 0.5),
    _gguf("q4_0", 4.5, 0.5),
    _gguf("q4_1", 5.0, 0.5),
)
FORMATS: dict[str, ExportFormat] = {row.name: row for row in _ROWS}
# llama.cpp's names for the model types that a GGUF adapter can be for, by model_type in
# config.json; whether it permutes queries and keys.
ARCHITECTURES = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
    "gemma2": ("gemma2", False),
    "phi3": ("phi3", False),
}
_PLAIN_GGUF = f"{GGUF}-f16"


def canonical(name: str) -> str:
    """Return the name of a format as FORMATS has it; GGUF types in any case, f16 as `gguf`."""
    if name.lower().startswith(f"{GGUF}-"):
        name = name.lower()
    return GGUF if name == _PLAIN_GGUF else name


def live(names: Iterable[str], quantize: str) -> tuple[str, ...]:
    """Return those of some formats that a run writes from the live model, in writing order.

    Args:
        names: of the formats.
        quantize: `model.quantize`; a quantized model cannot take an update without loss, so its
            merged model is made from the adapter, as `tuner export` does.
    """
    asked = set(names)
    able = [row.name for row in FORMATS.values() if row.live]
    return tuple(
        name for name in able if name in asked and (quantize == "none" or not needs_merge(name))
    )


def made(names: Iterable[str], quantize: str) -> tuple[str, ...]:
    """Return the other formats: those made from the run's sealed adapter or model."""
    names = tuple(names)
    own = live(names, quantize)
    # A merged model first: the others are made from it.
    rest = [name for name in names if name not in own]
    return tuple(sorted(rest, key=lambda name: name != "merged"))


def needs_merge(name: str) -> bool:
    """Return whether a format is made from a whole model, so that an adapter must be merged."""
    return name != "virtual_tokens" and not FORMATS[name].of_adapter


def needs_converter(row: ExportFormat) -> bool:
    """Return whether writing or checking a format needs llama.cpp's converter."""
    return bool(row.llama_type) or row.name == f"{GGUF}-adapter"


def known(names: Iterable[str]) -> list[ExportFormat]:
    """Return the formats of these names, each once, in the order given.

    Raises:
        RecipeError: there is none of that name.
        ModelError: a package is missing.
    """
    from tuner.schema.suggest import suggestion

    found = []
    for name in dict.fromkeys(map(canonical, names)):
        if name not in FORMATS:
            raise RecipeError(
                f"there is no format '{name}'",
                suggestion(name, list(FORMATS)),
                f"choose one of {', '.join(FORMATS)}",
            )
        require(FORMATS[name])
        found.append(FORMATS[name])
    return found


def require(row: ExportFormat) -> None:
    """Refuse a format whose packages or converter are not installed.

    Raises:
        ModelError: with the command that adds what is missing.
    """
    missing = [name for name in row.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"the format {row.name} needs {missing[0]}",
            f"{missing[0]} is not installed",
            packages.add(missing[0]),
        )
    if needs_converter(row):
        from tuner.machine import converter

        converter.require()
