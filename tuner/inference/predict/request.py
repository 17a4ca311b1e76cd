"""What a command line asks `tuner predict` for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.inference.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    from tuner.recipe.schema import DataSection


@dataclass(frozen=True)
class Request:
    """How the rows of a file are answered.

    Attributes:
        data: the file.
        output: takes a line per row.
        resume: continue what is in `output`.
        template: of the rows; None: that of the run.
        columns: names of columns in the file, by those of the template.
        keep: columns that are written next to the answer.
        prompt: whether to write the prompt, too.
        samples: answers per row.
        logprobs: whether to write the log-probability of each token.
        max_new_tokens: longest answer, in tokens.
        sampling: how each token is chosen.
        seed: of the sampling.
        system: the system turn of rows that have none; empty: the run's.
        generate: write answers even if the run answers with labels.
        max_bad_rows: rows that may stay without an answer.
        batch: rows at once; None: by the memory.
        run: the data section of the run; None without one.
        folder: where the file of its template is looked up.
    """

    data: Path
    output: Path
    resume: bool = False
    template: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    prompt: bool = False
    samples: int = 1
    logprobs: bool = False
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    seed: int = 42
    system: str = ""
    generate: bool = False
    max_bad_rows: int = 0
    batch: int | None = None
    run: DataSection | None = None
    folder: Path = Path()

    def settings(self, kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the answers depend on besides model and rows.

        Args:
            kind: text, labels or scores.
            arguments: of the chat template.
        """
        found: dict[str, Any] = {"kind": kind, "keep": list(self.keep), "prompt": self.prompt}
        found |= {"template": self.template, "columns": dict(self.columns)}
        if kind != "text":
            return found
        return found | {
            "samples": self.samples,
            "logprobs": self.logprobs,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "seed": self.seed if self.sampling.temperature else None,
            "system": self.system or None,
            "chat_arguments": dict(arguments),
        }
