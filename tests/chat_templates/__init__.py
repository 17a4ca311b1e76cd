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
    """A family: template, special tokens (the first ends an answer), further stop tokens, and what
    the template begins with before the text of its file."""

    file: Path
    specials: Sequence[str]
    stops: Sequence[str] = ()
    bos: str = ""
    head: str = ""

    def tokenizer(self) -> Any:
        """Return a tiny tokenizer with the family's tokens and template."""
        tokenizer = make_tokenizer("plain")
        names = {"eos_token": self.specials[0], "bos_token": self.bos or None}
        tokenizer.add_special_tokens(
            {"additional_special_tokens": list(self.specials)}
            | {name: token for name, token in names.items() if token}
        )
        tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
        tokenizer.chat_template = self.head + self.file.read_text("utf-8")
        return tokenizer

    def stop_ids(self, tokenizer: Any) -> list[int]:
        """Return the ids of the further stop tokens."""
        return [int(tokenizer.convert_tokens_to_ids(word)) for word in self.stops]


_IM = ("<|im_end|>", "<|im_start|>")
_GLM = ("<|user|>", "<|endoftext|>", "<|observation|>", "<|assistant|>", "<|system|>", "[gMASK]")
_MISTRAL = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_MISTRAL += ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_OSS = ("<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|message|>", "<|channel|>")

_LLAMA = ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
_GEMMA = ("<end_of_turn>", "<start_of_turn>", "<bos>")
_TODAY = "{%- set date_string = strftime_now('%d %b %Y') -%}"
_NO_SYSTEM = (
    "{%- if messages[0].role == 'system' -%}{{- raise_exception('no system turns') -}}{%- endif -%}"
)
_OWN_SYSTEM = (
    "{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\nYou are a small model.<|im_end|>\n' -}}{%- endif -%}"
)

FAMILIES: dict[str, Family] = {
    "chatml": Family(BUNDLED / "chatml.jinja", _IM),
    "llama3": Family(BUNDLED / "llama3.jinja", _LLAMA, bos=_LLAMA[1]),
    "llama3.1": Family(HERE / "llama3_1.jinja", _LLAMA, bos=_LLAMA[1]),
    "llama3.2": Family(HERE / "llama3_1.jinja", _LLAMA, bos=_LLAMA[1], head=_TODAY),
    "qwen2.5": Family(HERE / "qwen2_5.jinja", _IM),
    "qwen3": Family(BUNDLED / "qwen3.jinja", _IM),
    "qwen3-2507": Family(HERE / "qwen3_2507.jinja", _IM),
    "qwen3-2507-thinking": Family(HERE / "qwen3_2507_thinking.jinja", _IM),
    "gemma2": Family(BUNDLED / "gemma.jinja", _GEMMA, bos="<bos>", head=_NO_SYSTEM),
    "gemma": Family(BUNDLED / "gemma.jinja", _GEMMA, bos="<bos>"),
    "mistral": Family(BUNDLED / "mistral.jinja", ("</s>", *_MISTRAL), bos="<s>"),
    "phi-4": Family(BUNDLED / "phi.jinja", (*_IM, "<|im_sep|>")),
    "deepseek-r1": Family(
        BUNDLED / "deepseek-r1.jinja",
        ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        bos="<｜begin▁of▁sentence｜>",
    ),
    "glm-4.5": Family(HERE / "glm4_5.jinja", ("<|endoftext|>", *_GLM), stops=_GLM[:3]),
    "gpt-oss": Family(HERE / "gpt_oss.jinja", _OSS, stops=_OSS[:2]),
    "smollm2": Family(BUNDLED / "chatml.jinja", _IM, head=_OWN_SYSTEM),
    "smollm3": Family(HERE / "smollm3.jinja", _IM),
}
