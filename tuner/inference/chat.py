"""A conversation with a model: prompts from turns, commands, and the loop.

A turn goes through the chat template like a row of the training data: text that looks like a
control token stays text. An encoder-decoder has no chat template; it reads the turns as
plain text, the way it was trained.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.bad_rows import BadRow
from tuner.data.classifier import Classifier
from tuner.data.rows.dialogue import Message
from tuner.errors import DataError, RecipeError, ResourceError
from tuner.inference import asked, chat_tools
from tuner.inference.labels import show_labels
from tuner.inference.reading import whole
from tuner.inference.sampling import GREEDY, Sampling
from tuner.schema.suggest import suggestion

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.inference.engine import Inference

COMMANDS = {
    "/adapter NAME": "answer with this adapter",
    "/base": "answer with the base, without an adapter",
    "/adapters": "list the adapters",
    "/system TEXT": "set the system prompt; without TEXT, remove it",
    "/save FILE": "append the conversation to FILE, as a row of training data",
    "/reset": "clear the conversation",
    "/help": "show this list",
    "/exit": "leave",
}


@dataclass
class Chat:
    """A conversation.

    Attributes:
        model: what answers.
        console: where everything is shown.
        max_new_tokens: longest answer, in tokens.
        sampling: how each token is chosen.
        system: the system prompt; empty: none.
        arguments: of the chat template, in place of its defaults.
        turns: questions and answers so far.
        generate: write answers even if the model was trained to answer with labels.
        tools: shown to the model; the results of its calls are read as further lines.
    """

    model: Inference
    console: Console
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    system: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    turns: list[Message] = field(default_factory=list)
    generate: bool = False
    tools: Sequence[Any] = ()

    def answer_all(self, text: str) -> None:
        """Answer the conversations, or classify the inputs, of a text (see `asked`), each on its
        own.

        Raises:
            DataError: the text is no question, or one cannot be answered.
        """
        known = {command.split()[0] for command in COMMANDS}
        for line in text.splitlines():
            if known.intersection(line.split()[:1]):
                self.console.warn(f"'{line}' is asked as text: commands need --lines")
        if classifier := self._classifier:
            show_labels(self.model, classifier, asked.inputs(text), self.console)
            return
        for turns in asked.conversations(text):
            own = turns[0]["role"] == "system"
            system = turns[0]["content"] if own else self.system
            replace(self, system=system, turns=[])._answer(turns[own:])

    def run(self) -> None:
        """Read turns and commands until the end of the input, or `/exit`.

        Raises:
            DataError: a turn cannot be answered, and the input is not a terminal.
        """
        while (line := self.console.ask("> ")) is not None:
            if not line.strip():
                continue
            if line.startswith("/") and not line.startswith("//"):
                if line.split()[0] == "/exit":
                    return
                self.obey(line)
                continue
            self._turn(line.removeprefix("/") if line.startswith("//") else line)

    def _turn(self, text: str) -> None:
        try:
            if classifier := self._classifier:
                show_labels(self.model, classifier, asked.inputs(text), self.console)
            else:
                self.say(text)
        except DataError as error:
            if not self.console.interactive:
                raise
            self.console.warn(f"{error.what}: {error.why}")
        except KeyboardInterrupt:
            if not self.console.interactive:
                raise
            self.console.finish_stream()
            self.console.warn("stopped; this question and its answer are not kept")

    def say(self, text: str) -> str:
        """Ask, show the answer as it is written, and remember both.

        After calls, their results are read, and the model goes on.

        Raises:
            DataError: it cannot be answered; nothing is remembered.
        """
        before = self.turns
        try:
            answer = self._answer([*before, {"role": "user", "content": text}])
            while self.turns[-1].get("tool_calls"):
                results = chat_tools.results(self.turns[-1], self.console)
                if results is None:
                    break
                answer = self._answer([*self.turns, *results])
        except (DataError, KeyboardInterrupt):
            self.turns = before
            raise
        return answer

    def _answer(self, turns: list[Message]) -> str:
        turns, prompt = self._fitting(turns)
        reader = chat_tools.reader(self.model, prompt, self.tools)
        room = self.model.active.room - len(prompt)
        # What libraries print is not ours: stdout is the console's.
        with contextlib.redirect_stdout(sys.stderr):
            answer = self.model.answer(
                prompt,
                min(self.max_new_tokens, room),
                self.sampling,
                self.console.stream,
            )
        self.console.finish_stream()
        read = whole(reader.feed(answer.text, end=True))
        thought, said = read.reasoning, read.content
        for call in read.calls:
            self.console.text(f"called: {call['name']}({call['arguments']})")
        self.console.event(
            "answer",
            question=turns[-1]["content"],
            text=said,
            **({"reasoning": thought} if thought else {}),
            **({"calls": read.calls} if read.calls else {}),
            adapter=self.model.active.name,
            stopped=answer.stopped,
            tokens=answer.tokens,
        )
        turn: Message = {"role": "assistant", "content": said}
        turn |= {"reasoning_content": thought} if thought else {}
        turn |= {"tool_calls": chat_tools.turned(read.calls, turns)} if read.calls else {}
        self.turns = [*turns, turn]
        return answer.text

    @property
    def _classifier(self) -> Classifier | None:
        return None if self.generate else self.model.classifiers.get(self.model.active.name)

    def _fitting(self, turns: list[Message]) -> tuple[list[Message], list[int]]:
        """Return the newest turns that leave room for an answer, and their prompt."""
        active, first, count = self.model.active, self._first(), 0
        while True:
            try:
                prompt = self.model.prompts_of(active).ids(
                    [*first, *turns[count:]], [*self.tools] or None, self.arguments
                )
            except BadRow as error:
                raise DataError(
                    "this turn cannot be answered",
                    str(error),
                    "change its text, or start over with /reset",
                ) from None
            later = (n for n in range(count + 1, len(turns)) if turns[n]["role"] == "user")
            question = next(later, None)
            enough = 1 if question is None else self.max_new_tokens
            if len(prompt) + enough <= active.room:
                break
            if question is None:
                raise DataError(
                    "this turn is too long",
                    f"it has {len(prompt)} tokens, and the model's context is {active.room} "
                    "tokens, answer included",
                    "shorten it, or the system prompt",
                )
            count = question
        if count:
            self.console.warn(
                f"the oldest {count} turns are dropped: the context is {active.room} tokens"
            )
        return turns[count:], prompt

    def _first(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def obey(self, line: str) -> None:
        """Carry out a command."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[], None]] = {
            "/adapter": lambda: self._use(rest),
            "/base": lambda: self.model.use(None),
            "/adapters": self._list,
            "/system": lambda: self._set_system(rest),
            "/save": lambda: self._save(rest),
            "/reset": self.turns.clear,
            "/help": self._help,
        }
        if name not in commands:
            known = suggestion(name, [*commands, "/exit"])
            self.console.warn(
                f"there is no command {name} ({known}); to start a turn with /, type //"
            )
            return
        commands[name]()

    def _use(self, name: str) -> None:
        if name in self.model.adapters:
            self.model.use(name)
            return
        known = ", ".join(self.model.adapters) or "none"
        self.console.warn(f"there is no adapter '{name}'; loaded adapters: {known}")

    def _set_system(self, text: str) -> None:
        self.system = text

    def _save(self, name: str) -> None:
        try:
            self.save(name)
        except (DataError, RecipeError, ResourceError) as error:
            if not self.console.interactive:
                raise
            self.console.warn(f"{error.what}: {error.why}")

    def save(self, name: str) -> None:
        """Append the conversation to a JSONL file, as a row of training data.

        Raises:
            RecipeError: no file is given.
            DataError: the conversation is empty.
            ResourceError: the file cannot be written.
        """
        if not name:
            raise RecipeError("no file is given", "/save needs one", "/save conversation.jsonl")
        if not self.turns:
            raise DataError("there is nothing to save", "the conversation is empty", "ask first")
        messages = [*self._first(), *self.turns]
        row = {"messages": messages, **({"tools": [*self.tools]} if self.tools else {})}
        line = json.dumps(row, ensure_ascii=False) + "\n"
        try:
            with Path(name).expanduser().open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise ResourceError(
                f"the conversation cannot be saved as {name}",
                error.strerror or str(error),
                "choose a file that can be written",
            ) from None
        self.console.event("saved", path=name, messages=len(messages))
        self.console.text(f"{len(messages)} messages added to {name}")

    def _list(self) -> None:
        active = self.model.active.name
        self.console.event("adapters", names=list(self.model.adapters), active=active)
        rows = [
            (name, "answers" if name == active else "", str(adapter.folder))
            for name, adapter in self.model.adapters.items()
        ]
        rows.append((f"(base) {self.model.base.name}", "" if active else "answers", ""))
        self.console.table(("adapter", "", "folder"), rows)

    def _help(self) -> None:
        self.console.event("help", commands=COMMANDS)
        self.console.table(("", ""), COMMANDS.items())
