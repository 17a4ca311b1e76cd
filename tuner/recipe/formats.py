"""FORMATS: what a trained model can be written as, and what must be true of each.

Names and numbers only, so that a plan and a command line can refuse without loading torch; the code
of each format stands in `tuner/export/`, in the table EXPORTERS.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.errors import ModelError, RecipeError
from tuner.machine import packages

GGUF = "gguf"


@dataclass(frozen=True)
class Format:
    """A format of `tuner export`.

    Attributes:
        name: as the user says it, and the name of its folder.
        what: one line for help.
        packages: modules that must be there.
        bits: of a quantized weight with its scales; None where nothing is quantized.
        divergence: largest mean KL to the tuned model, in nats a token; None where the logits
            themselves must agree.
        llama_type: type of a GGUF file, as llama.cpp calls it.
    """

    name: str
    what: str
    packages: tuple[str, ...] = ()
    bits: float | None = None
    divergence: float | None = None
    llama_type: str = ""

    @property
    def exact(self) -> bool:
        """Whether the artefact holds the trained weights themselves."""
        return self.divergence is None


def _gguf(kind: str, bits: float | None, divergence: float) -> Format:
    # The converter writes these itself; the rest is quantized by llama.cpp.
    plain = kind in ("f32", "f16", "bf16", "q8_0")
    return Format(
        GGUF if kind == "f16" else f"{GGUF}-{kind}",
        f"one GGUF file of type {kind}, with an Ollama Modelfile",
        packages=() if plain else ("llama_cpp",),
        bits=bits,
        divergence=divergence,
        llama_type=kind,
    )


_ROWS = (
    Format("adapter", "peft's files"),
    Format("virtual_tokens", "the learned prompt of a prompt method, as plain tensors"),
    Format("merged", "the whole model, the adapter folded in"),
    Format(
        "gguf-adapter",
        "a LoRA for llama.cpp, beside the base's GGUF file",
        ("llama_cpp",),
        divergence=1e-3,
    ),
    Format("int8", "bitsandbytes LLM.int8()", ("bitsandbytes",), 8.5, 0.1),
    Format("nf4", "bitsandbytes NF4, double quantized", ("bitsandbytes",), 4.6, 0.5),
    Format("int8-torchao", "torchao int8, weights only", ("torchao",), 8.5, 0.05),
    Format("int4", "4 bits in groups, by GPTQ", ("compressed_tensors",), 5.1, 0.5),
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
FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}
# Those that a run can write from the live model; the others are made of what it sealed.
LIVE = ("adapter", "virtual_tokens", "merged")
# Quantized, and read by transformers.
QUANTIZED = tuple(row.name for row in _ROWS if row.bits and not row.llama_type)
# Made of an adapter, not of a merged model.
OF_ADAPTER = ("adapter", "gguf-adapter")
# What llama.cpp calls the types of models that a GGUF adapter can be for, by what config.json says;
# whether it permutes queries and keys.
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
    """The name of a format as FORMATS has it: GGUF types in any case, and f16 by its full name."""
    if name.lower().startswith(f"{GGUF}-"):
        name = name.lower()
    return GGUF if name == _PLAIN_GGUF else name


def live(names: Iterable[str], quantize: str) -> tuple[str, ...]:
    """Those of some formats that a run writes from the live model, in the order of writing.

    Args:
        names: of the formats.
        quantize: `model.quantize`; a quantized model cannot take an update without loss, so its
            merge is made of the adapter, as `tuner export` does it.
    """
    able = LIVE if quantize == "none" else LIVE[:-1]
    return tuple(name for name in able if name in set(names))


def made(names: Iterable[str], quantize: str) -> tuple[str, ...]:
    """The other formats: made of the run's sealed adapter or model."""
    names = tuple(names)
    own = live(names, quantize)
    # A merged model first: the others are made of it.
    rest = [name for name in names if name not in own]
    return tuple(sorted(rest, key=lambda name: name != "merged"))


def needs_merge(name: str) -> bool:
    """Whether a format is made of a whole model, so that an adapter must be folded in for it."""
    return name not in (*OF_ADAPTER, "virtual_tokens")


def needs_converter(row: Format) -> bool:
    """Whether llama.cpp's converter takes part in writing or proving a format."""
    return bool(row.llama_type) or row.name == f"{GGUF}-adapter"


def known(names: Iterable[str]) -> list[Format]:
    """The formats of these names, each once, in the order given.

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
                f"one of {', '.join(FORMATS)}",
            )
        require(FORMATS[name])
        found.append(FORMATS[name])
    return found


def require(row: Format) -> None:
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
