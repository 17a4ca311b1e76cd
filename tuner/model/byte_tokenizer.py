"""A fast tokenizer for ByT5, which has only a slow one: the same ids, with offsets."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode


def fast(slow: Any) -> PreTrainedTokenizerFast:
    """Return a fast tokenizer with the ids of a ByT5Tokenizer: one per byte, and its own tokens.

    Args:
        slow: a ByT5Tokenizer.
    """
    added: dict[int, AddedToken] = dict(slow.added_tokens_decoder)
    letters = bytes_to_unicode()
    vocabulary = {letters[byte]: slow.convert_tokens_to_ids(chr(byte)) for byte in letters}
    vocabulary |= {token.content: number for number, token in added.items()}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([added[number] for number in sorted(added)])
    end = slow.eos_token
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}",
        pair=f"$A {end} $B {end}",
        special_tokens=[(end, vocabulary[end])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=slow.pad_token,
        unk_token=slow.unk_token,
        model_max_length=slow.model_max_length,
        clean_up_tokenization_spaces=False,
    )
