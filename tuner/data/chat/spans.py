"""Where the answers are in a rendered chat, found by rendering prefixes.

An answer reaches from the end of the prompt that the model is asked with (the chat before it,
rendered with `add_generation_prompt` and the arguments for such an answer) to its stop token: what
the template writes between them, a block of reasoning say, the model has to write. Chats of the
same shape (roles, tools, tool calls, arguments) are rendered once with neutral contents, which
shows what the template writes itself; a row then needs one rendering, which must equal the shape
filled with its contents. A row for which it does not is measured with its own prefixes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.chat import chat_shapes
from tuner.data.chat.behind_prompt import NoPrefix, composed, no_prefix, refuse_tags, spliced
from tuner.data.chat.chat_shapes import (
    AnswerSpan,
    ChatShape,
    RenderJob,
    after_answer,
    filled,
    neutral,
    rendered,
    tags_of,
    with_stop,
    written,
)
from tuner.data.chat.chat_template import ChatTemplate
from tuner.data.chat.other_turns import with_other_turns
from tuner.data.chat.turn_calls import TurnCalls
from tuner.data.rows.dialogue import Dialogue
from tuner.data.rows.rendered import Rendered
from tuner.data.turns import reasoning, turn_keys
from tuner.data.turns.reasoning import KEY, Message

MAX_SHAPES = 4096


class SpanFinder:
    """Renders dialogues with one chat template.

    Args:
        chat: the template.
        context: reasoning is context: shown, and not a target.
        literal_calls: calls that are written in the text of answers stay there.

    Attributes:
        calls: puts calls into the template's form.
        moved: rows whose turns the template moves or repeats.
        after: rows by the text that the template writes after their answers.
        tags: those of `TAGS` that the template has written.
        unended: rows with an answer before the last one that no stop token ends.
    """

    def __init__(
        self, chat: ChatTemplate, context: bool = False, literal_calls: bool = False
    ) -> None:
        self.chat, self.calls = chat, TurnCalls(chat.abilities, literal_calls)
        self._context = context
        self._shapes: dict[str, ChatShape] = {}
        self.moved: set[str] = set()
        self.unended: set[str] = set()
        self.tags: set[str] = set()
        self.after: defaultdict[str, set[str]] = defaultdict(set)

    def render(
        self,
        dialogue: Dialogue,
        only_last: bool = False,
        arguments: Mapping[str, Any] | None = None,
        apart: bool = False,
    ) -> list[Rendered]:
        """Render a dialogue: one example, or one for each answer.

        Templates that rewrite earlier turns (dropping their reasoning, say) cannot show all
        answers in one text as inference would; then each answer is a separate example.

        Args:
            dialogue: the turns.
            only_last: learn only the last turn that is learned.
            arguments: for the template; None: those that ask for such an answer, with reasoning
                or without.
            apart: make an example of each answer in any case.

        Raises:
            BadRow: the template refuses the row.
            DataError: the generation prompt is not a prefix of the answered chat.
        """
        if dialogue.tools:
            self.chat.require_tools(dialogue.row)
        if read := self.calls.out_of_text(dialogue.messages, dialogue.tools, dialogue.row):
            answer = str(read[-1].get("content") or "")
            called = replace(dialogue, messages=tuple(read), answer=answer)
            with suppress(BadRow):
                return self.render(called, only_last, arguments, apart)
        self.calls.require(dialogue.messages, dialogue.tools)
        messages = [self.calls.native(message) for message in dialogue.messages]
        learned = [i for i, message in enumerate(messages) if turn_keys.weight(message)]
        learned = learned[-1:] if only_last else learned
        wanted = [i for i in learned if messages[i]["role"] == "assistant"]

        def chat(upto: int, start: int = 0) -> RenderJob:
            turns = [i for i in wanted if start <= i < upto]
            own = arguments
            if own is None:
                own = self.chat.arguments(any(messages[i].get(KEY) for i in turns))
            others = [i for i in learned if start <= i < upto and i not in turns]
            return RenderJob(messages[:upto], dialogue.tools, dict(own), turns, others)

        alike = len({bool(messages[i].get(KEY)) for i in wanted}) <= 1
        if not apart and (alike or arguments is not None or not self.chat.abilities.switch):
            whole = self._one(dialogue, chat(len(messages)))
            if whole:
                return [whole]
        # Each answer in an example of its own, with the turns that are learned before it.
        examples, start = [], 0
        for stop in dict.fromkeys([*(i + 1 for i in wanted), learned[-1] + 1]):
            answer = messages[stop - 1].get("content") or ""
            part = replace(dialogue, messages=dialogue.messages[:stop], answer=answer)
            example = self._one(part, chat(stop, start))
            examples += [example] if example else []
            start = stop
        return examples

    def _one(self, dialogue: Dialogue, chat: RenderJob) -> Rendered | None:
        try:
            example = self._answered(dialogue, chat)
        except NoPrefix as found:
            refuse_tags(chat.messages[found.turn])
            raise no_prefix(dialogue.row, chat, found.turn, self._text) from None
        if not example:
            return None
        self.tags |= tags_of(example)
        if example.after:
            self.after[example.after].add(dialogue.row)
        ends = (*self.chat.stops, *self.chat.specials)
        if not all(example.text[:end].endswith(ends) for _, end in example.supervised[:-1]):
            self.unended.add(dialogue.row)
        return with_other_turns(example, chat, self.chat.stops, self._text)

    def _answered(self, dialogue: Dialogue, chat: RenderJob) -> Rendered | None:
        able = self.chat.abilities
        said = any(chat.messages[i].get(KEY) for i in chat.answers)
        if chat.answers and (able.composed or (said and not able.reasoning)):
            return self._composed(dialogue, chat, composed)
        shape = self._shape(chat)
        if shape.answers is None and chat.answers == [len(chat.messages) - 1]:
            return self._composed(dialogue, chat, spliced)
        if shape.contents is None:
            self.moved.add(dialogue.row)
        text = self._text(chat.messages, chat)
        given = shape.given(chat.messages, text)
        if given is not None:
            example = filled(shape, given, dialogue, text)
            return example and replace(example, unlocated=chat_shapes.unlocated_texts(chat))
        found = self._answers(chat, text)
        if found is None:
            return None
        return chat_shapes.anywhere(rendered(dialogue, text, found), text, chat, shape.text)

    def prompt(
        self,
        messages: Sequence[Message],
        tools: list[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """Render the prompt that the answer to the last turn continues.

        Args:
            messages: the turns, as a row has them.
            tools: shown to the model.
            arguments: for the template, in place of its defaults.

        Raises:
            BadRow: the template refuses the turns, or leaves one out.
        """
        turns = [reasoning.separated(message) for message in messages]
        chat = RenderJob(turns, tools, dict(arguments or {}), [])
        if read := self.calls.out_of_text(turns, tools):
            with suppress(BadRow):
                return self._prompt(replace(chat, messages=read))
        return self._prompt(chat)

    def _prompt(self, job: RenderJob) -> Rendered:
        self.calls.require(job.messages, job.tools)
        turns = [self.calls.native(message) for message in job.messages]
        chat = replace(job, messages=turns)
        bare = replace(chat, messages=neutral(turns))
        pattern = self._text(bare.messages, bare, generate=True)
        text = self._text(turns, chat, generate=True)
        shape = ChatShape(pattern, chat_shapes.locate(pattern, bare.messages), None)
        dialogue = Dialogue("conversation", tuple(turns), tools=job.tools)
        given = shape.given(turns, text)
        if given is not None:
            structure, _ = written(shape, given, text)
            rest = chat_shapes.unlocated_texts(chat)
            return Rendered(dialogue, text, (), structure=structure, unlocated=rest)
        return chat_shapes.anywhere(Rendered(dialogue, text, ()), text, chat, pattern)

    def native(self, messages: Sequence[Message]) -> list[Message]:
        """Return the turns of a row as the template itself takes them."""
        turns = (self.calls.native(reasoning.separated(message)) for message in messages)
        return [self.chat.native(turn) for turn in turns]

    def _text(self, messages: Sequence[Message], chat: RenderJob, generate: bool = False) -> str:
        native = [self.chat.native(message) for message in messages]
        return self.chat.render(native, chat.tools, generate, chat.arguments)

    def _shape(self, chat: RenderJob) -> ChatShape:
        bare = replace(chat, messages=neutral(chat.messages))
        turns = [turn_keys.shown(message) for message in bare.messages]
        key = json.dumps([turns, chat.tools, chat.arguments, chat.answers], sort_keys=True)
        if key not in self._shapes:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            text = self._text(bare.messages, bare)
            found = self._answers(bare, text)
            located = chat_shapes.locate(text, bare.messages)
            self._shapes[key] = ChatShape(text, located, None if found is None else tuple(found))
        return self._shapes[key]

    def _answers(self, chat: RenderJob, text: str) -> list[AnswerSpan] | None:
        """The answers' spans in `text`; None if it is not stable over its turns."""
        found = []
        for i in chat.answers:
            prompt = self._text(chat.messages[:i], chat, generate=True)
            last = i == len(chat.messages) - 1
            answered = text if last else self._text(chat.messages[: i + 1], chat)
            if not answered.startswith(prompt):
                if any(turn.get(KEY) for turn in chat.messages[:i]):
                    return None
                if chat.messages[i - 1]["role"] == "assistant":
                    raise BadRow(
                        "two assistant turns follow each other, and the model's chat template "
                        "shows the first in another way once the second is there (join the two)"
                    )
                raise NoPrefix(i)
            answer = self._answer(answered, len(prompt), chat.messages[i])
            answer = replace(answer, after=after_answer(answered[answer.end :], self.chat.specials))
            if answered[: answer.end] != text[: answer.end]:
                return None
            found.append(answer if last else with_stop(answer, text, self.chat.stops))
        return found

    def _answer(self, text: str, prompt: int, message: Message) -> AnswerSpan:
        """What the model writes after the prompt, up to its stop token."""
        said, content = (str(message.get(key) or "").strip() for key in (KEY, "content"))
        thought = text.find(said, prompt) if said else -1
        if said and thought < 0:
            raise BadRow("the model's chat template leaves out the reasoning of an answer")
        position = text.find(content, max(prompt, thought + len(said))) if content else -1
        start = end = prompt
        if position >= 0:
            start = position if said and self._context else prompt
            end = position + len(content)
        ends = [text.find(stop, end) + len(stop) for stop in self.chat.stops if stop in text[end:]]
        if ends:
            return AnswerSpan(prompt, start, min(ends), True)
        # Some models end a turn with another token than their eos.
        if position >= 0 and not message.get("tool_calls"):
            rest = text[end:].lstrip()
            ends = [
                len(text) - len(rest) + len(word)
                for word in self.chat.specials
                if rest.startswith(word)
            ]
            return AnswerSpan(prompt, start, max(ends, default=end), bool(ends))
        text = text.rstrip()
        stopped = any(text.endswith(word) for word in self.chat.specials)
        return AnswerSpan(prompt, start, len(text), stopped)

    def _composed(
        self, dialogue: Dialogue, chat: RenderJob, behind: Callable[..., tuple[str, int]]
    ) -> Rendered | None:
        """The last answer behind the prompt, where an answered chat does not show it so."""
        if len(chat.answers) > 1:
            return None
        bare = replace(chat, messages=neutral(chat.messages))
        pattern, _ = behind(bare, self._text)
        if chat_shapes.locate(pattern, bare.messages) is None:
            self.moved.add(dialogue.row)
        text, prompt = behind(chat, self._text)
        answer = self._answer(text, prompt, chat.messages[-1])
        answer = replace(answer, after=after_answer(text[answer.end :], self.chat.specials))
        example = rendered(dialogue, text, [answer])
        return chat_shapes.anywhere(example, text, chat, pattern)
