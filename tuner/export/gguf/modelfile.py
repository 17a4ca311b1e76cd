"""The Modelfile that lets Ollama run a GGUF file: template, stop tokens, parameters.

Ollama never runs the chat template in a GGUF file. Without a TEMPLATE it takes one of its own whose
source looks similar, or sends the question bare. Its templates are Go's, which repeat texts around
turns and change none. Ours is read off the chat template, by what it writes around marks, and kept
only if it writes the same prompts; else there is no Modelfile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.data.chat import template_clock
from tuner.data.chat.chat_template import sends_bos
from tuner.data.turns import reasoning
from tuner.errors import first_line

_MARKS = (("user", "Xqquestion0qX"), ("assistant", "Xqanswer0qX"), ("user", "Xqquestion1qX"))
_THOUGHT = f"{reasoning.OPEN}\nXqthought0qX\n{reasoning.CLOSE}\n\n"
_DAYS = ("2001-02-03", "2004-05-16")

Turn = Mapping[str, str]


class Unsayable(Exception):
    """A chat template that Go's templates cannot write, and why."""


@dataclass(frozen=True)
class Texts:
    """What a chat template writes around the turns of a chat.

    Attributes:
        system: before and after the text of a system turn that comes first, up to the question.
        start: what comes before the first question where there is none.
        user: before a later question, and after each.
        assistant: before and after an answer.
        prompt: what an answer begins behind.
    """

    system: tuple[str, str]
    start: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    prompt: str

    def go(self) -> str:
        """Return it as a template of Ollama's."""
        question = f"{{{{ if $later }}}}{self.user[0]}{{{{ end }}}}{{{{ .Content }}}}{self.user[1]}"
        answer = f"{self.assistant[0]}{{{{ .Content }}}}{self.assistant[1]}{{{{ $later = true }}}}"
        return (
            f"{{{{ if .System }}}}{self.system[0]}{{{{ .System }}}}{self.system[1]}"
            f"{{{{ else }}}}{self.start}{{{{ end }}}}{{{{ $later := false }}}}"
            f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{question}'
            f'{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}{{{{ end }}}}{self.prompt}'
        )

    def write(self, chat: Sequence[Turn]) -> str:
        """Return the prompt of a chat, as `go` writes it."""
        text, later = self.start, False
        for turn in chat:
            said = turn["content"]
            if turn["role"] == "system":
                text = self.system[0] + said + self.system[1]
            elif turn["role"] == "user":
                text += (self.user[0] if later else "") + said + self.user[1]
            else:
                text += self.assistant[0] + said + self.assistant[1]
                later = True
        return text + self.prompt


def text(
    file: str, tokenizer: Any, stops: Sequence[int], context: int, adapter: str | None = None
) -> str:
    """Return the Modelfile of a GGUF file next to it.

    Args:
        file: its name.
        tokenizer: with the chat template that was trained with.
        stops: ids that end an answer.
        context: longest sequence in tokens.
        adapter: name of a GGUF adapter that is put on it.

    Raises:
        Unsayable: no template of Ollama's writes the prompts that were trained.
    """
    lines = [f"FROM ./{file}"]
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    lines.append(f'TEMPLATE """{texts(tokenizer).go()}"""')
    ends = [tokenizer.eos_token_id, *stops]
    for end in dict.fromkeys(tokenizer.convert_ids_to_tokens(int(stop)) for stop in ends):
        lines.append(f'PARAMETER stop "{end}"')
    lines.append(f"PARAMETER num_ctx {context}")
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n"


def problem(tokenizer: Any) -> str | None:
    """Return why there is no Modelfile for a tokenizer; None if there is one."""
    try:
        texts(tokenizer)
    except Unsayable as error:
        return str(error)
    return None


def texts(tokenizer: Any) -> Texts:
    """Return what a tokenizer's chat template writes around turns, tried on several chats.

    Raises:
        Unsayable: it cannot be said so.
    """
    if tokenizer.chat_template is None:
        raise Unsayable("there is no chat template")
    question, answer, later = ({"role": role, "content": mark} for role, mark in _MARKS)
    if len({_rendered(tokenizer, [question], date=date) for date in _DAYS}) > 1:
        raise Unsayable("it writes today's date, which a Modelfile would keep as it is now")
    start, asked = _around(_rendered(tokenizer, [question]), question)
    _, bare = _around(_rendered(tokenizer, [question], prompt=False), question)
    _, opening, again, _ = _around(
        _rendered(tokenizer, [question, answer, later]), question, answer, later
    )
    *_, after = _around(_rendered(tokenizer, [question, answer], prompt=False), question, answer)
    if not (asked.startswith(bare) and opening.startswith(bare) and again.startswith(after)):
        raise Unsayable("it writes a turn differently once another follows")
    prompt, before = asked.removeprefix(bare), opening.removeprefix(bare)
    spaces = ""
    if not prompt.startswith(before):
        # White space before an answer is the answer's: the model was asked to write it.
        spaces, before = before.removeprefix(prompt), prompt
        if spaces.strip():
            raise Unsayable(f"the model itself writes {spaces!r} before an answer")
    system = _system(tokenizer, start, question)
    found = Texts(system, start, (again.removeprefix(after), bare), (before, after), prompt)
    _try(tokenizer, found, spaces)
    return found


def _system(tokenizer: Any, start: str, question: Turn) -> tuple[str, str]:
    """Return what is written around a system turn; one that the template does not know goes before
    the question."""
    turn = {"role": "system", "content": "Xqsystem0qX"}
    try:
        before, between, _ = _around(_rendered(tokenizer, [turn, question]), turn, question)
    except Unsayable:
        return start, "\n\n"
    return before, between


def _try(tokenizer: Any, found: Texts, spaces: str) -> None:
    """Compare with the chat template, on chats with and without system turn and earlier answers."""
    question, answer, later = ({"role": role, "content": mark} for role, mark in _MARKS)
    system = {"role": "system", "content": "Xqsystem0qX"}
    chats = [[question, answer, later], [question, answer, later, answer, question]]
    if found.system[0] != found.start or found.system[1] != "\n\n":
        chats += [[system, *chat] for chat in chats]
    for chat in chats:
        own = [
            {**turn, "content": spaces + turn["content"]} if turn is answer else turn
            for turn in chat
        ]
        if found.write(own) != _rendered(tokenizer, chat):
            raise Unsayable("it writes a turn differently once another follows")
    if reasoning.CLOSE not in found.prompt:
        thought = _THOUGHT
        if reasoning.opens(found.prompt):
            thought = thought.removeprefix(f"{reasoning.OPEN}\n")
        chat = [question, {**answer, "content": thought + answer["content"]}, later]
        own = [{**turn, "content": spaces * (turn is chat[1]) + turn["content"]} for turn in chat]
        if found.write(own) != _rendered(tokenizer, chat):
            raise Unsayable("it takes the reasoning out of earlier answers")
    if any(word in found.go().replace("{{ ", "") for word in ("{{", '"""')):
        raise Unsayable("its texts hold signs of Go's templates")


def _around(text: str, *turns: Turn) -> list[str]:
    """Return the texts before, between and after the contents of some turns."""
    parts = []
    for turn in turns:
        before, found, text = text.partition(turn["content"])
        if not found or turn["content"] in text:
            raise Unsayable(f"it leaves out a {turn['role']} turn, or repeats it")
        parts.append(before)
    return [*parts, text]


def _rendered(
    tokenizer: Any, chat: Sequence[Turn], *, prompt: bool = True, date: str | None = None
) -> str:
    """Render a chat, without a first token that llama.cpp adds itself."""
    given = {"tokenize": False, "add_generation_prompt": prompt}
    try:
        with template_clock.on(date):
            text = str(tokenizer.apply_chat_template(list(chat), **given))
    # A template is a program; what it raises is its own.
    except Exception as error:
        raise Unsayable(f"it refuses a chat: {first_line(error)}") from None
    return text.removeprefix(tokenizer.bos_token) if sends_bos(tokenizer) else text
