"""Chat templates that behave like those of current families, each on a tokenizer with their tokens.

Their texts are ours; the families' own are on the Hub. What counts is how they treat turns: what
they write between prompt and answer, which reasoning they keep, how they show tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tuner.data
from tests.tokenizers import make_tokenizer

HERE = Path(__file__).parent
BUNDLED = Path(tuner.data.__file__).parent / "chat_templates"


@dataclass(frozen=True)
class Family:
    """A family: template, special tokens (the first ends an answer), further stop tokens."""

    file: Path
    specials: Sequence[str]
    stops: Sequence[str] = ()
    bos: str = ""

    def tokenizer(self) -> Any:
        """Return a tiny tokenizer with the family's tokens and template."""
        tokenizer = make_tokenizer("plain")
        names = {"eos_token": self.specials[0], "bos_token": self.bos or None}
        tokenizer.add_special_tokens(
            {"additional_special_tokens": list(self.specials)}
            | {name: token for name, token in names.items() if token}
        )
        tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
        tokenizer.chat_template = self.file.read_text("utf-8")
        return tokenizer

    def stop_ids(self, tokenizer: Any) -> list[int]:
        """Return the ids of the further stop tokens."""
        return [int(tokenizer.convert_tokens_to_ids(word)) for word in self.stops]


_IM = ("<|im_end|>", "<|im_start|>")
_GLM = ("<|user|>", "<|endoftext|>", "<|observation|>", "<|assistant|>", "<|system|>", "[gMASK]")
_MISTRAL = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_MISTRAL += ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_OSS = ("<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|message|>", "<|channel|>")

FAMILIES: dict[str, Family] = {
    "chatml": Family(BUNDLED / "chatml.jinja", _IM),
    "llama3": Family(
        BUNDLED / "llama3.jinja",
        ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin_of_text|>",
    ),
    "qwen2.5": Family(HERE / "qwen2_5.jinja", _IM),
    "qwen3": Family(BUNDLED / "qwen3.jinja", _IM),
    "qwen3-2507-thinking": Family(HERE / "qwen3_2507_thinking.jinja", _IM),
    "gemma": Family(
        BUNDLED / "gemma.jinja", ("<end_of_turn>", "<start_of_turn>", "<bos>"), bos="<bos>"
    ),
    "mistral": Family(BUNDLED / "mistral.jinja", ("</s>", *_MISTRAL), bos="<s>"),
    "phi-4": Family(BUNDLED / "phi.jinja", (*_IM, "<|im_sep|>")),
    "deepseek-r1": Family(
        BUNDLED / "deepseek-r1.jinja",
        ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        bos="<｜begin▁of▁sentence｜>",
    ),
    "glm-4.5": Family(HERE / "glm4_5.jinja", ("<|endoftext|>", *_GLM), stops=_GLM[:3]),
    "gpt-oss": Family(HERE / "gpt_oss.jinja", _OSS, stops=_OSS[:2]),
    "smollm3": Family(HERE / "smollm3.jinja", _IM),
}
