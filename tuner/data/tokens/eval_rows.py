"""Held-out rows: what is asked, what is expected, and the answers to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.data.fields import several
from tuner.data.rows.rendered import prompt_text
from tuner.data.tokens.example import Example
from tuner.data.tokens.example_maker import ExampleMaker, Pair
from tuner.data.tokens.prepared import EvalRow

RAW_PROMPT_TOKENS = 32


def eval_row(
    maker: ExampleMaker, pair: Pair, example: Example, labels: Sequence[str], tokenizer: Any
) -> EvalRow:
    """Return the held-out row of an example.

    Args:
        maker: made the example; makes those of other answers.
        pair: the row's text and its tokens.
        example: of the row.
        labels: answers to choose from, where the row itself offers none.
        tokenizer: of the base.
    """
    rendered, encoded = pair
    if rendered.dialogue.plain and maker.head == "language":
        return _continuation(example, tokenizer)
    if example.goals:
        own = several.said(several.of_answer(rendered.dialogue.answer))
        return EvalRow(example, example.input_ids, prompt_text(rendered), own, [], None)
    answer, text = rendered.dialogue.answer.strip(), prompt_text(rendered)
    if example.label is not None:
        return EvalRow(example, example.input_ids, text, answer, [], example.label)
    offered = rendered.dialogue.choices or labels
    named = [maker.stops.bare(each) for each in offered]
    options = maker.options(rendered, offered) if answer in named else None
    return EvalRow(
        example,
        example.input_ids if example.target else encoded.prompt_ids,
        text,
        rendered.reference,
        options or [],
        named.index(answer) if options else None,
    )


def _continuation(example: Example, tokenizer: Any) -> EvalRow:
    """Raw text has no prompt: its beginning is one, what follows is the reference."""
    ids = example.input_ids
    border = max(1, min(RAW_PROMPT_TOKENS, len(ids) // 2))
    prompt, reference = (
        tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:border], ids[border:])
    )
    return EvalRow(example, ids[:border], prompt, reference, [], None)
