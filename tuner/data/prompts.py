"""Data for learning from rewards: prompts that the policy answers, with a report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tuner.data.answer_encoder import AnswerEncoder
from tuner.data.bad_rows import BadRow
from tuner.data.check_row import check
from tuner.data.dialogue import Dialogue, Message, RowRenderer, Segment
from tuner.data.example_maker import ExampleMaker
from tuner.data.files import Source, read_source
from tuner.data.preferences import asked
from tuner.data.prepared import Prepared, max_length_of
from tuner.data.prompt_match import PromptFit, choose_prompts
from tuner.data.read import Row
from tuner.data.split import Split, fingerprint, split_by_prompt
from tuner.data.thumbs import is_down, thumb_columns
from tuner.data.turns import blank
from tuner.data.whole import (
    Losses,
    base_report,
    base_warnings,
    refuse_cuts,
    sequences_sha256,
    stop_if_too_many,
)
from tuner.errors import RecipeError
from tuner.recipe.schema import DataSection

__all__ = ["Prompt", "prepare_prompts"]

# Takes the answer's place while a prompt is rendered; it is in no prompt's ids.
PLACEHOLDER = "Answer"


@dataclass(frozen=True)
class Prompt:
    """A prompt for the policy to answer.

    Args:
        row: file name and line, for messages.
        input_ids: what generation starts from; a chat's ends with the header of the answer.
        text: the last user turn, or the whole of a plain text.
        reference: the row's own answer; empty if it has none.
        messages: the turns; none for plain text.
        task: which of the recipe's files it comes from.
    """

    row: str
    input_ids: list[int]
    text: str
    reference: str
    messages: tuple[Message, ...]
    task: int = 0

    @property
    def prompt_ids(self) -> list[int]:
        """The same as `input_ids`."""
        return self.input_ids

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads."""
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        """As `num_tokens`: what is learned is known only when it has been answered."""
        return len(self.input_ids)


@dataclass(frozen=True)
class _Asked:
    """A row: its prompt with a placeholder for an answer, and its own answer."""

    dialogue: Dialogue
    reference: str

    @property
    def mark(self) -> str:
        """Fingerprint of the prompt."""
        return fingerprint(self.dialogue)


def prepare_prompts(
    data: DataSection,
    tokenizer: Any,
    *,
    folder: Path,
    seed: int,
    context_length: int,
    response_length: int,
    stop_ids: Collection[int] = (),
) -> Prepared:
    """Read, render, check, split and tokenize the prompts of a recipe.

    Rows are those of sft; their answer may be missing, and is the reference where it is not. A
    prompt is never cut: one that leaves no room for a response is left out. Prompts that occur in
    the training rows several times are kept and counted.

    Args:
        data: the recipe's data section.
        tokenizer: a fast transformers tokenizer.
        folder: the recipe's folder; relative paths are looked up there, else in the current one.
        seed: chooses the held-out prompts.
        context_length: tokens that the model can take.
        response_length: tokens that a response may have.
        stop_ids: further token ids that end an answer, next to the tokenizer's eos.

    Returns:
        `train` and `eval` are lists of `Prompt`.

    Raises:
        DataError: the rows cannot be read, do not fit the template, or leave nothing to train on.
        RecipeError: a key of the data section names something that does not exist, or no prompt has
            room.
        ModelError: the tokenizer or its chat template does not fit.
        SafetyError: the chat template is not safe to run.
    """
    max_length = min(max_length_of(data, context_length), context_length - response_length)
    if max_length < 1:
        raise RecipeError(
            f"responses of {response_length} tokens leave no room for a prompt",
            f"the model's context is {context_length} tokens",
            "allow fewer new tokens",
        )
    refuse_cuts(data)
    source = read_source(data, folder, max_length)
    fit = choose_prompts(data, source.columns, folder)
    reader = _Reader(fit, source, data.labels)
    rows, held = reader.each(source.train), reader.each(source.eval)
    source.problems.stop_if_too_many()
    for name, found in (("train", rows), ("eval", held)):
        if not found and (name == "train" or source.eval):
            raise source.empty(name)
    split = split_by_prompt(rows, held, lambda each: each.mark, data, seed)
    maker = ExampleMaker(data, fit.template, tokenizer, max_length, stop_ids)
    encoder = AnswerEncoder(data, tokenizer, maker, sampled=True)
    train, losses = _prompts(split.train, encoder, source, max_length)
    evals, eval_losses = _prompts(split.eval, encoder, source, max_length)
    room = _room(losses.longest, context_length, response_length)
    stop_if_too_many(losses, len(split.train), max_length, "prompts", room, data.long)
    if split.eval and not evals:
        raise source.empty("eval", f"no held-out prompt fits into {max_length} tokens")
    report = base_report(source, fit.used, maker, losses, eval_losses)
    report |= _counts(fit, split, train, evals)
    report["blank_rows"] = reader.blank
    report["warnings"] = base_warnings(report)
    if reader.blank:
        report["warnings"].append(f"{reader.blank} blank texts left out")
    return Prepared(train, evals, fit.template.name, (), maker.chat_template, report)


class _Reader:
    """Makes prompts of rows; `blank` counts the blank texts."""

    def __init__(self, fit: PromptFit, source: Source, labels: Collection[str]) -> None:
        self._fit = fit
        self._source = source
        self._renderer = RowRenderer(fit.complete, labels)
        self._thumbs = thumb_columns(fit.template, source.columns, fit.used, source.rows)
        self.blank = 0

    def each(self, rows: Sequence[Row]) -> list[_Asked]:
        """Return the prompts of the good rows; bad ones go to the source's problems."""
        found = []
        for row in rows:
            try:
                made = self._row(row)
            except BadRow as problem:
                self._source.problems.add(row.id, str(problem))
            else:
                found += [made] if made else []
        return found

    def _row(self, row: Row) -> _Asked | None:
        values, reference = self._fit.completed(row.values, PLACEHOLDER)
        dialogue = self._renderer.render(replace(row, values=values))
        if reference is None:
            reference = dialogue.answer
        if is_down(row, self._thumbs):
            reference = ""
        if self._fit.template.text is not None:
            text = dialogue.answer
            if blank(text):
                self.blank += 1
                return None
            segments = (Segment(text, False), Segment(PLACEHOLDER, True))
            dialogue, reference = replace(dialogue, segments=segments, answer=PLACEHOLDER), ""
        elif dialogue.segments:
            dialogue = dialogue.with_answer(next(iter(dialogue.words)))
        elif dialogue.messages:
            last = {"role": "assistant", "content": PLACEHOLDER}
            messages = (*dialogue.messages[:-1], last)
            dialogue = replace(dialogue, messages=messages, answer=PLACEHOLDER)
        check(dialogue)
        return _Asked(replace(dialogue, source=self._source.number(row)), reference)


def _prompts(
    rows: Sequence[_Asked], encoder: AnswerEncoder, source: Source, max_length: int
) -> tuple[list[Prompt], Losses]:
    """The prompts that fit, and the count of what does not."""
    kept, losses = [], Losses()
    for asked_row, answers in zip(
        rows, encoder.encode([[row.dialogue] for row in rows]), strict=True
    ):
        dialogue = asked_row.dialogue
        if isinstance(answers, BadRow):
            source.problems.add(dialogue.row, str(answers))
            continue
        ids = answers.prompt_ids
        losses.longest = max(losses.longest, len(ids))
        losses.foreign += answers.foreign
        if len(ids) > max_length or dialogue.cut_characters:
            losses.rows.append(dialogue.row)
            losses.lost += len(ids)
            continue
        losses.kept += len(ids)
        text = asked(dialogue.messages) or _plain(dialogue)
        reference, turns = asked_row.reference, dialogue.messages[:-1]
        kept.append(Prompt(dialogue.row, ids, text, reference, turns, dialogue.source))
    source.problems.stop_if_too_many()
    return kept, losses


def _plain(dialogue: Dialogue) -> str:
    """The text before the answer in a plain text."""
    before = []
    for segment in dialogue.segments:
        if segment.supervised:
            break
        before.append(segment.text)
    return "".join(before).rstrip()


def _room(longest: int, context_length: int, response_length: int) -> str:
    if longest + response_length <= context_length:
        return f"set data.max_length: {longest} (the longest prompt)"
    return (
        f"shorten these prompts or leave them out, or allow fewer than {response_length} new "
        f"tokens: the model's context is {context_length} tokens"
    )


def _counts(
    fit: PromptFit, split: Split[_Asked], train: Sequence[Prompt], held: Sequence[Prompt]
) -> dict[str, Any]:
    tokens = sum(prompt.num_tokens for prompt in train)
    numbers = chain.from_iterable(([prompt.task], prompt.input_ids) for prompt in train)
    return {
        **split.facts,
        "rows_train": len(train),
        "rows_eval": len(held),
        "examples_train": len(train),
        "rows_with_reference": sum(bool(prompt.reference) for prompt in train),
        "tokens": tokens,
        "longest": max(prompt.num_tokens for prompt in train),
        "template": fit.template.name,
        "template_origin": fit.complete.origin,
        "tokens_sha256": sequences_sha256(list(numbers)),
    }
