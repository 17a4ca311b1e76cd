"""Prepared: the data of a run, ready to train and score on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tuner.data.example import Example
from tuner.errors import RecipeError
from tuner.recipe.schema import DataSection


@dataclass(frozen=True)
class EvalRow:
    """One held-out example.

    Args:
        example: scored like a training example.
        prompt_ids: what generation starts from, up to the last answer.
        prompt_text: the prompt as shown to readers.
        reference: the answer.
        options: one example per label with the same prompt; empty if the answer is not a label.
        gold: index of the answer in `options`, or the class.
    """

    example: Example
    prompt_ids: list[int]
    prompt_text: str
    reference: str
    options: list[Example]
    gold: int | None


@dataclass(frozen=True)
class Asked:
    """A prompt as it is trained.

    Args:
        row: where it comes from.
        what: which kind of turn answers it.
        turns: before the answer.
        tools: shown with them.
        arguments: of the chat template, for such an answer.
        ids: its tokens.
    """

    row: str
    what: str
    turns: list[dict[str, Any]]
    tools: list[Any] | None
    arguments: dict[str, Any]
    ids: list[int]


@dataclass(frozen=True)
class Prepared:
    """The data of a run.

    Args:
        train: `Example`s; for preferences `Ranking`s, for learning from rewards `Prompt`s.
        eval: `EvalRow`s; for the other two the same as `train`.
        template: name of the data template, or of the format of preference data.
        labels: answers to choose from.
        chat_template: the Jinja text in use; None for plain text.
        report: the content of `data_report.json`.
        chat_arguments: of the chat template, for answers like those of most rows.
        asked: a few prompts: of a turn in the middle, of a last one, of one with tools.
        plain_template: a chat template that writes plain prompts as the rows have them; None where
            the rows are chats, or have no prompt.
    """

    train: list[Any]
    eval: list[Any]
    template: str
    labels: tuple[str, ...]
    chat_template: str | None
    report: dict[str, Any]
    chat_arguments: dict[str, Any] = field(default_factory=dict)
    plain_template: str | None = None
    asked: tuple[Asked, ...] = ()


@dataclass(frozen=True)
class Preview:
    """One rendered row: its ids, its text in spans, as decoded from them, and which of these are
    supervised."""

    row: str
    spans: list[tuple[str, bool]]
    tokens: int
    truncated: bool
    ids: list[int]


def max_length_of(data: DataSection, context_length: int) -> int:
    """Return the tokens of the longest example: the recipe's, else all that the model can take.

    Raises:
        RecipeError: the recipe says more than the model can take.
    """
    if data.max_length == "auto":
        return context_length
    if data.max_length > context_length:
        raise RecipeError(
            f"data.max_length: {data.max_length} is more than the model can take",
            f"its context is {context_length} tokens",
            f"set data.max_length: {context_length} or less",
        )
    return data.max_length
