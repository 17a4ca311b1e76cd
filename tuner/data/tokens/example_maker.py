"""Checked dialogues to token ids: rendered, encoded, truncated, with the options of eval rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from tuner.data.bad_rows import BadRow, BadRows
from tuner.data.chat.chat_template import ChatTemplate, plain_template
from tuner.data.chat.spans import SpanFinder
from tuner.data.chat.system_turn import refuse_system
from tuner.data.rows.dialogue import Dialogue
from tuner.data.rows.rendered import Rendered, raw, separator_of
from tuner.data.templates.template import Template
from tuner.data.tokens.classes import Classes
from tuner.data.tokens.encode import Encoded, Encoder, closing, unread
from tuner.data.tokens.example import Example
from tuner.data.tokens.prepared import Inputs
from tuner.data.tokens.tally import Tally
from tuner.data.tokens.target_encoder import TargetEncoder
from tuner.data.tokens.written_stops import WrittenStops
from tuner.data.turns import reasoning, turn_keys
from tuner.data.turns.turn_rules import refuse_misplaced
from tuner.errors import DataError, ModelError, RecipeError

MAX_LOST_SHARE = 0.1

Pair = tuple[Rendered, Encoded]


class ExampleMaker:
    """Makes examples of dialogues for one tokenizer.

    Args:
        inputs: the recipe's data section and the tokenizer.
        templates: the data templates of the dialogues.
        max_length: tokens of the longest example.
        head: what the examples are for: language, sequence or classes.
        labels: the classes.

    Raises:
        RecipeError: `data.render` does not fit the templates or the head, or the templates put
            different texts between the turns of plain prompts.
        ModelError: the tokenizer has no end-of-sequence token, or its chat template is broken.
        SafetyError: its chat template is not safe to run.
    """

    def __init__(
        self,
        inputs: Inputs,
        templates: Sequence[Template],
        max_length: int,
        head: str = "language",
        labels: Sequence[str] = (),
    ) -> None:
        data, tokenizer = inputs.data, inputs.tokenizer
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-sequence token",
                "without one the model never learns to stop",
                "use a base model whose tokenizer defines an eos_token",
            )
        self._date = inputs.date
        plain = next((template.name for template in templates if template.raw), None)
        if data.render == "chat" and plain:
            raise RecipeError(
                f"data.render: the data template '{plain}' makes plain text, not a chat",
                fix="leave out data.render, or use another template",
            )
        refuse_misplaced(data, templates, head)
        self.max_length, self.system = max_length, data.system
        self.train, self.eval = Tally(), Tally()
        language = head == "language"
        self.plain = language and all(template.text is not None for template in templates)
        self.head, self._classes = head, Classes(labels, data.multi_label)
        self._tokenizer = tokenizer
        turned = [template for template in templates if not template.raw]
        self._turns = bool(turned)
        self._drop, self._context = (data.reasoning == mode for mode in ("drop", "context"))
        self._chat: ChatTemplate | None = None
        self.finder: SpanFinder | None = None
        if not language and data.render == "chat":
            raise RecipeError(
                "data.render: chat needs a model that continues a chat",
                "an encoder-decoder or a classifier reads the prompt as plain text",
                "leave out data.render",
            )
        chat = self._turns and data.render != "raw" and language
        self._separator = "" if chat else separator_of(turned, head)
        if chat:
            self._chat = ChatTemplate(tokenizer, inputs.stop_ids, inputs.date)
            self.finder = SpanFinder(self._chat, self._context, inputs.earlier_turns)
        borders = inputs.splits(head)
        policy = data.special_tokens_in_text
        self.encoder = Encoder(tokenizer, policy, self.chat_template, borders)
        # The answers of a head are names of classes, and no text.
        stops = "literal" if head == "classes" else policy
        self.stops = WrittenStops(tokenizer, inputs.stop_ids, stops)
        self._shows_calls = self._chat is not None and self._chat.abilities.calls
        self._calls_as_text: set[str] = set()
        self.suffix = closing(tokenizer)
        self._targets = TargetEncoder(tokenizer, self.encoder) if head == "sequence" else None
        if data.system is not None:
            refuse_system(self._chat, data.system, self.encoder.control_words)

    @property
    def chat_template(self) -> str | None:
        """The Jinja text of the chat template in use; None for raw text."""
        return self._chat.source if self._chat else None

    @property
    def chat_template_origin(self) -> str:
        """Where the chat template comes from."""
        if self._chat is None:
            return "none: plain text"
        own = "tuner's plain one, because the tokenizer has none"
        return own if self._chat.own else "the tokenizer's"

    @property
    def chat_date(self) -> str | None:
        """The date that the chat template writes; None if it writes none."""
        return self._date if self._chat and self._chat.dated else None

    @property
    def plain_template(self) -> str | None:
        """A chat template that writes plain prompts as rows have them; None if these are chats."""
        if self._chat is not None or self.head != "language" or not self._turns:
            return None
        return plain_template(self._tokenizer, self._separator)

    def reasons(self, dialogues: Iterable[Dialogue]) -> list[bool]:
        """Return of each dialogue whether reasoning comes before its last answer."""
        return [not self._drop and bool(each.last_answer.get(reasoning.KEY)) for each in dialogues]

    def asked(self, dialogues: Iterable[Dialogue]) -> dict[str, Any]:
        """Return the arguments of the chat template by which answers to one prompt are asked for:
        with reasoning if one of them has some."""
        return self._chat.arguments(any(self.reasons(dialogues))) if self._chat else {}

    def defaults(self, reasons: Sequence[bool]) -> dict[str, Any]:
        """Return the arguments by which most of these answers are asked for, as far as the template
        needs to be given them."""
        most = bool(reasons) and sum(reasons) * 2 >= len(reasons)
        return self._chat.defaults(most) if self._chat else {}

    def unread_keys(self, dialogues: Iterable[Dialogue]) -> dict[str, int]:
        """Count the keys of turns that the chat template never names."""
        messages = chain.from_iterable(each.messages for each in dialogues)
        return dict(turn_keys.unread(messages, self.chat_template or ""))

    def odd(self) -> dict[str, Any]:
        """Return what the chat template does to turns, for the report: see `SpanFinder`."""
        found: dict[str, Any] = {"rows_with_calls_as_text": len(self._calls_as_text)}
        if finder := self.finder:
            found["rows_with_moved_turns"] = len(finder.moved)
            found["rows_with_unended_answers"] = len(finder.unended)
            found["text_after_answers"] = {t: len(r) for t, r in finder.after.items()}
            found |= finder.calls.facts()
        return found

    def render(
        self,
        dialogue: Dialogue,
        only_last: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> list[Rendered]:
        """Render a dialogue to one or more texts; see `SpanFinder.render`."""
        dialogue = self.stops.taken_off(dialogue)
        if not self._shows_calls and any("call" in each for each in dialogue.messages):
            self._calls_as_text.add(dialogue.row)
        if self._drop:
            messages = tuple(reasoning.without(each) for each in dialogue.messages)
            dialogue = replace(dialogue, messages=messages)
        if self.finder is None or dialogue.segments:
            if dialogue.tools or any(message.get("tool_calls") for message in dialogue.messages):
                raise BadRow("plain text cannot show tools (data.render: raw)")
            return [raw(dialogue, self._separator, only_last, self._context)]
        return self.finder.render(dialogue, only_last, arguments)

    def encode(
        self, dialogues: Sequence[Dialogue], problems: BadRows, prompts: bool = False
    ) -> list[Pair]:
        """Render and encode dialogues; unfit ones go to `problems`."""
        rendered: list[Rendered] = []
        for dialogue in dialogues:
            try:
                if self.head == "classes":
                    self._classes.check(dialogue)
                if self.head != "language":
                    turn_keys.refuse_fractions(dialogue.messages, "this model learns answers whole")
                rendered += self.render(dialogue)
            except BadRow as problem:
                problems.add(dialogue.row, str(problem))
        pairs: list[Pair] = []
        bad: dict[str, None] = {}
        for example, result in self._as_sent(rendered, prompts or self.head != "language"):
            if not isinstance(result, BadRow):
                pairs.append((example, result))
            elif example.dialogue.row not in bad:
                bad[example.dialogue.row] = None
                problems.add(example.dialogue.row, str(result))
        problems.stop_if_too_many(len(dialogues))
        return [each for each in pairs if each[0].dialogue.row not in bad]

    def _as_sent(
        self, rendered: Sequence[Rendered], prompts: bool
    ) -> Iterator[tuple[Rendered, Encoded | BadRow]]:
        """Texts and their tokens; those of several answers one by one where a prompt among them has
        other tokens when it is sent."""
        if self._targets:
            yield from zip(rendered, self._targets.encode(rendered), strict=True)
            return
        for example, result in zip(rendered, self.encoder.encode(rendered, prompts), strict=True):
            if self.finder is None or isinstance(result, BadRow) or not result.apart:
                yield example, result
                continue
            single = self.finder.render(example.dialogue, apart=True)
            yield from zip(single, self.encoder.encode(single, prompts), strict=True)

    def options(self, pair: Rendered, labels: Sequence[str]) -> list[Example] | None:
        """Return the prompt with each label as its answer; None if one is cut off or refused."""
        try:
            return self.answered(pair.dialogue, labels)
        except BadRow:
            return None

    def answered(self, dialogue: Dialogue, labels: Sequence[str]) -> list[Example]:
        """Return a dialogue with each label as its last answer.

        Raises:
            BadRow: one is refused, or longer than `max_length`.
        """
        texts = [self.render(dialogue.with_answer(label), True)[-1] for label in labels]
        examples = []
        for text, result in self._as_sent(texts, self.head != "language"):
            if isinstance(result, BadRow):
                raise result
            if (length := len(result.ids)) > self.max_length:
                raise BadRow(f"with its label it has {length} tokens, over {self.max_length}")
            examples.append(self.example(text, result))
        return examples

    def example(self, rendered: Rendered, encoded: Encoded) -> Example:
        """Return the example, cut to `max_length`: the parts that its head reads and writes."""
        row, task, most = rendered.dialogue.row, rendered.dialogue.source, self.max_length
        if self.head == "language":
            learned, weights = encoded.supervised[:most], encoded.weights[:most]
            return Example(row, encoded.ids[:most], learned, task=task, weights=weights)
        ids = encoded.prompt_ids[: most - len(self.suffix)] + self.suffix
        nothing = [False] * len(ids)
        if self.head == "classes":
            return Example(row, ids, nothing, task=task, **self._classes.learned(rendered.dialogue))
        wanted = [n for n, learned in zip(encoded.ids, encoded.supervised, strict=True) if learned]
        return Example(row, ids, nothing, target=tuple(wanted[:most]), task=task)

    def cut(self, pairs: Sequence[Pair], tally: Tally) -> list[tuple[Pair, Example]]:
        """Truncate to `max_length`; examples without a supervised token left are dropped."""
        kept = []
        for example, encoded in pairs:
            row = example.dialogue.row
            made = self.example(example, encoded)
            here, total = made.num_targets, sum(encoded.supervised)
            if self.head != "classes":
                tally.supervised_cut += total - here
                if here:
                    tally.supervised_cut += unread(example, encoded)
            tally.foreign += encoded.foreign
            shorter = made.num_tokens < self.whole_length(encoded, made)
            if shorter or example.dialogue.cut_characters:
                tally.truncated.add(row)
            if here:
                tally.supervised_kept += here
                kept.append(((example, encoded), made))
            else:
                tally.dropped.append(row)
        return kept

    def whole_length(self, encoded: Encoded, made: Example) -> int:
        """Return the tokens that an example would have without truncation."""
        if self.head == "language":
            return len(encoded.ids)
        return len(encoded.prompt_ids) + len(self.suffix) + len(made.target)

    def stop_if_too_many_dropped(self, rows: int, kept: set[str], longest: int) -> None:
        """Raise when truncation leaves too many rows without an answer.

        Raises:
            DataError: more than a tenth of the rows; names a `max_length` that would do.
        """
        self.train.dropped = sorted({*self.train.dropped} - kept)
        lost = len(self.train.dropped)
        if lost > MAX_LOST_SHARE * rows:
            raise DataError(
                f"truncation leaves {lost} of {rows} training rows ({lost / rows:.0%}) "
                "without an answer",
                f"at data.max_length {self.max_length}, e.g. {self.train.dropped[0]}",
                f"set data.max_length: {longest} (the longest row), or shorten the prompts",
            )
