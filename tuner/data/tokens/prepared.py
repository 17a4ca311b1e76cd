"""What the data of a run is made from, and what it becomes: ready to train and score on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.data.tokens.example import Example
from tuner.errors import RecipeError
from tuner.recipe.schema import DataSection


@dataclass(frozen=True)
class Inputs:
    """What the rows of a recipe are prepared with.

    Args:
        data: the recipe's data section.
        tokenizer: a fast transformers tokenizer.
        folder: the recipe's folder; relative paths are looked up there, else in the current one.
        seed: chooses the held-out rows.
        context_length: tokens that the model can take.
        stop_ids: further token ids that end an answer, next to the tokenizer's eos.
        date: what a chat template writes that writes today's; None: today's.
        formats: of a run that is resumed: of each file, its data template and the columns of it.
        earlier_turns: read tools and calls as the earlier version did that began the run: schemas
            as they are, calls in a text as text, calls without results as any others.
    """

    data: DataSection
    tokenizer: Any
    folder: Path
    seed: int
    context_length: int
    stop_ids: Collection[int] = ()
    date: str | None = None
    formats: tuple[tuple[str, dict[str, str] | None], ...] = ()
    earlier_turns: bool = False

    def max_length(self) -> int:
        """Return the tokens that an example may have: the recipe's number, else all that the model
        can take.

        Raises:
            RecipeError: the recipe says more than the model can take.
        """
        if isinstance(self.data.max_length, str):
            return self.context_length
        if self.data.max_length > self.context_length:
            raise RecipeError(
                f"data.max_length: {self.data.max_length} is more than the model can take",
                f"its context is {self.context_length} tokens",
                f"set data.max_length: {self.context_length} or less",
            )
        return self.data.max_length

    def splits(self, head: str = "language") -> bool:
        """Return whether plain text that is too long becomes pieces."""
        by_itself = self.data.long == "auto" and self.data.cut != "answer"
        return head == "language" and (self.data.long == "split" or by_itself)


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
class TrainedPrompt:
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
class PromptFormat:
    """How the prompts of rows are sent when the model is used.

    Args:
        arguments: of the chat template, for answers like most that are learned.
        plain_template: a chat template that writes plain prompts as the rows have them; None where
            the rows are chats, or have no prompt.
        trained: a few prompts to compare (see `trained_prompts`).
        quiet: arguments by which an answer without reasoning is asked for.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    plain_template: str | None = None
    trained: tuple[TrainedPrompt, ...] = ()
    quiet: dict[str, Any] = field(default_factory=dict)

    def unlike(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return those of `arguments` that the arguments of a recipe say otherwise."""
        given = given or {}
        return {
            name: each for name, each in self.arguments.items() if given.get(name, each) != each
        }


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
        sent: how prompts are sent when the model is used.
        classifier: how inputs are classified, if every answer is a label (see `classifier`).
        test: rows that are scored once, after training; as `eval`.
    """

    train: list[Any]
    eval: list[Any]
    template: str
    labels: tuple[str, ...]
    chat_template: str | None
    report: dict[str, Any]
    sent: PromptFormat = field(default_factory=PromptFormat)
    classifier: dict[str, Any] | None = None
    test: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """A part of a row.

    Args:
        role: who speaks; empty where that is not known.
        kind: text, reasoning, tools, call, special (a special token in the text of the row) or
            template (what the chat template writes); of preferences, prompt or answer.
        text: as decoded from its tokens.
        learned: whether they are targets.
        weight: of these in the loss; 0 if they are not learned.
        pieces: the tokens that a special token in the text of the row becomes.
    """

    role: str
    kind: str
    text: str
    learned: bool
    weight: float
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """One rendered row: its ids, and its text in parts."""

    row: str
    parts: list[Part]
    tokens: int
    truncated: bool
    ids: list[int]
