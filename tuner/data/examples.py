"""Checked dialogues to token ids: rendered, encoded, truncated, with the options of eval rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.data.chat import ChatTemplate
from tuner.data.check import Problems
from tuner.data.dialogue import BadRow, Dialogue
from tuner.data.encode import Encoded, Encoder
from tuner.data.rendered import Rendered, raw
from tuner.data.spans import SpanFinder
from tuner.data.template import Template
from tuner.errors import DataError, ModelError, RecipeError
from tuner.recipe import DataSection

MAX_LOST_SHARE = 0.1


@dataclass(frozen=True)
class Example:
    """One training example.

    Args:
        row: file name and line, for messages.
        input_ids: token ids.
        supervised: token i is a target of the loss where True; position 0 never is.
    """

    row: str
    input_ids: list[int]
    supervised: list[bool]


@dataclass
class Tally:
    """What was lost on the way from the dialogues of a split to its examples."""

    truncated: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    supervised_cut: int = 0
    supervised_kept: int = 0
    foreign: int = 0


Pair = tuple[Rendered, Encoded]


class ExampleMaker:
    """Makes examples of dialogues for one tokenizer.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token, or its chat template is broken.
        SafetyError: its chat template is not safe to run.
    """

    def __init__(
        self,
        data: DataSection,
        template: Template,
        tokenizer: Any,
        max_length: int,
        stop_ids: Collection[int],
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-sequence token",
                "without one the model never learns to stop",
                "use a base model whose tokenizer names its eos_token",
            )
        if data.render == "chat" and template.raw:
            raise RecipeError(
                f"data.render: the data template '{template.name}' makes plain text, not a chat",
                fix="leave out data.render, or use another template",
            )
        self.max_length = max_length
        self.train = Tally()
        self.eval = Tally()
        self._separator = template.separator
        self._chat: ChatTemplate | None = None
        self._finder: SpanFinder | None = None
        if not template.raw and data.render != "raw":
            self._chat = ChatTemplate(tokenizer, stop_ids)
            self._finder = SpanFinder(self._chat)
        self._encoder = Encoder(tokenizer, data.special_tokens_in_text, self.chat_template)

    @property
    def chat_template(self) -> str | None:
        """The Jinja text of the chat template in use; None for raw text."""
        return self._chat.source if self._chat else None

    @property
    def chat_template_origin(self) -> str:
        """Whose chat template it is."""
        if self._chat is None:
            return "none: plain text"
        return "tuner's plain one: the tokenizer has none" if self._chat.own else "the tokenizer's"

    def render(self, dialogue: Dialogue, only_last: bool = False) -> list[Rendered]:
        """Render a dialogue to one or more texts; see `SpanFinder.render`."""
        if self._finder is None:
            if dialogue.tools or any(message.get("tool_calls") for message in dialogue.messages):
                raise BadRow("plain text cannot show tools (data.render: raw)")
            return [raw(dialogue, self._separator, only_last)]
        return self._finder.render(dialogue, only_last)

    def encode(
        self, dialogues: Sequence[Dialogue], problems: Problems, prompts: bool = False
    ) -> list[Pair]:
        """Render and encode dialogues; unfit ones go to `problems`."""
        rendered: list[Rendered] = []
        for dialogue in dialogues:
            try:
                rendered += self.render(dialogue)
            except BadRow as problem:
                problems.add(dialogue.row, str(problem))
        pairs: list[Pair] = []
        bad: dict[str, None] = {}
        encoded = self._encoder.encode(rendered, prompts)
        for example, result in zip(rendered, encoded, strict=True):
            if not isinstance(result, BadRow):
                pairs.append((example, result))
            elif example.dialogue.row not in bad:
                bad[example.dialogue.row] = None
                problems.add(example.dialogue.row, str(result))
        problems.stop_if_too_many()
        return [pair for pair in pairs if pair[0].dialogue.row not in bad]

    def options(self, pair: Rendered, labels: Sequence[str]) -> list[Example] | None:
        """The same prompt with each label as its answer; None if one is cut off or refused."""
        try:
            texts = [self.render(pair.dialogue.with_answer(label), True)[-1] for label in labels]
        except BadRow:
            return None
        examples = []
        for result in self._encoder.encode(texts):
            if isinstance(result, BadRow) or len(result.ids) > self.max_length:
                return None
            examples.append(Example(pair.dialogue.row, result.ids, result.supervised))
        return examples

    def cut(self, pairs: Sequence[Pair], tally: Tally) -> list[tuple[Pair, Example]]:
        """Truncate to `max_length`; examples without a supervised token left are dropped."""
        kept = []
        for example, encoded in pairs:
            row = example.dialogue.row
            ids, supervised = encoded.ids[: self.max_length], encoded.supervised[: self.max_length]
            here, total = sum(supervised), sum(encoded.supervised)
            tally.supervised_cut += total - here
            if here:
                tally.supervised_cut += _unread(example, encoded)
            tally.foreign += encoded.foreign
            if len(ids) < len(encoded.ids) or example.dialogue.cut_characters:
                tally.truncated.add(row)
            if here:
                tally.supervised_kept += here
                kept.append(((example, encoded), Example(row, ids, supervised)))
            else:
                tally.dropped.add(row)
        return kept

    def stop_if_too_many_dropped(self, rows: int, kept: set[str], longest: int) -> None:
        """Raise when truncation leaves too many rows without an answer.

        Raises:
            DataError: more than a tenth of the rows; names a `max_length` that would do.
        """
        self.train.dropped -= kept
        lost = len(self.train.dropped)
        if lost > MAX_LOST_SHARE * rows:
            raise DataError(
                f"truncation leaves {lost} of {rows} training rows ({lost / rows:.0%}) "
                "without an answer",
                f"at data.max_length {self.max_length}, e.g. {min(self.train.dropped)}",
                f"set data.max_length: {longest} (the longest row), or shorten the prompts",
            )


def _unread(example: Rendered, encoded: Encoded) -> int:
    """Estimated supervised tokens in the text that was cut while reading, if it is an answer's."""
    characters = example.dialogue.cut_characters
    return round(characters * len(encoded.ids) / max(1, len(example.text)))
