"""Metrics from generated answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.fields import several
from tuner.data.tokens.collate import collate_prompts, placed
from tuner.data.turns import reasoning
from tuner.tasks import rollouts

if TYPE_CHECKING:
    from tuner.data.tokens.prepared import EvalRow
    from tuner.evaluate.likelihood import Observation
    from tuner.plan.plan import Plan

ROWS_PER_BATCH = 8
# Recurrent families without an attention mask: they would read the padding before a prompt.
_ONE_BY_ONE = frozenset({"rwkv", "xlstm"})


@torch.no_grad()
def answer(
    plan: Plan,
    model: Any,
    rows: Sequence[EvalRow],
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Generate greedy answers, at most `eval.max_new_tokens` long, in the order of the rows.

    Prompts of a batch are padded on the left; an answer ends at the first stop token. A classifier
    answers with the likeliest label, or with all that are likelier than not.
    """
    if plan.head.name == "classes":
        return _classes(plan, model, rows, tick)
    answers: list[str] = []
    most = plan.recipe.eval.max_new_tokens
    size = plan.answers_at_once(ROWS_PER_BATCH, [row.prompt_ids for row in rows], most)
    if plan.base.config.get("model_type") in _ONE_BY_ONE:
        size = 1
    for first in range(0, len(rows), size):
        answers += _batch(plan, model, rows[first : first + size])
        tick(len(answers), len(rows))
    return answers


def _batch(plan: Plan, model: Any, rows: Sequence[EvalRow]) -> list[str]:
    tokenizer = plan.tokenizer
    batch = collate_prompts([row.prompt_ids for row in rows], tokenizer.pad_token_id)
    further = {}
    if plan.collate.tasks:
        further["task_ids"] = torch.tensor([row.example.task for row in rows], device=model.device)
    stops = rollouts.stops(plan)
    generated = model.generate(
        **placed(batch, model.device),
        max_new_tokens=plan.recipe.eval.max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
        **further,
    )
    first = 1 if plan.head.name == "sequence" else batch["input_ids"].shape[1]
    # An encoder-decoder may begin its answers with a token of its own, such as a language.
    hidden = plan.head.name == "sequence"
    return [_text(tokenizer, tail.tolist(), stops, hidden) for tail in generated[:, first:]]


def _classes(
    plan: Plan, model: Any, rows: Sequence[EvalRow], tick: Callable[[int, int], None]
) -> list[str]:
    answers: list[str] = []
    examples = [row.example for row in rows]
    size = plan.answers_at_once(ROWS_PER_BATCH, [row.input_ids for row in examples], 0)
    for first in range(0, len(rows), size):
        batch = plan.collate(examples[first : first + size])
        del batch["labels"]
        logits = model(**placed(batch, model.device)).logits
        if plan.recipe.data.multi_label:
            names = plan.prepared.labels
            chosen = [compress(names, flags) for flags in (logits >= 0).tolist()]
            answers += map(several.said, chosen)
            tick(len(answers), len(rows))
            continue
        answers += [plan.prepared.labels[choice] for choice in logits.argmax(dim=-1).tolist()]
        tick(len(answers), len(rows))
    return answers


def _text(tokenizer: Any, ids: list[int], stops: Sequence[int], hidden: bool) -> str:
    """Return an answer up to its stop token, without special tokens if they are `hidden`."""
    end = next((n for n, token in enumerate(ids) if token in stops), len(ids))
    return str(tokenizer.decode(ids[:end], skip_special_tokens=hidden)).strip()


def exact_match(observed: Sequence[Observation]) -> float | None:
    """Return the share of answers equal to the reference, ignoring case, width and white space, and
    reasoning before them."""
    answered = [item for item in observed if item.answer is not None]
    same = sum(_plain(item.answer or "") == _plain(item.row.reference) for item in answered)
    return same / len(answered) if answered else None


def _plain(text: str) -> str:
    _, answer = reasoning.cut(text, opened=True)
    return " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
