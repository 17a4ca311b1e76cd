"""One text that holds a whole conversation, its turns marked: `Human: ... Assistant: ...`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

# What speakers are called. The case of letters does not matter.
_WORDS = {
    "user": (
        *("human", "user", "question", "instruction", "prompter", "customer", "q"),
        *("问", "提问", "问题", "用户", "客户", "患者", "病人", "人类", "指令"),
        *("顾客", "买家", "来电人", "咨询者", "访客"),
    ),
    "assistant": (
        *("assistant", "gpt", "chatgpt", "bot", "ai", "answer", "response", "model", "a"),
        *("答", "回答", "助手", "律师", "医生", "客服", "机器人", "输出"),
        *("坐席", "座席", "卖家", "商家", "店家", "店员"),
    ),
    "system": ("system", "系统"),
    # What an instruction is about; a part of the user's turn.
    "input": ("input", "输入"),
}
# Who answers whom, where words go together.
PARTNERS = {
    "question": ("answer",),
    "q": ("a",),
    "instruction": ("response", "answer"),
    "问": ("答",),
    "提问": ("回答",),
    "问题": ("回答", "答"),
    "指令": ("输出", "回答"),
}
_PARTNERED = frozenset(word for words in PARTNERS.values() for word in words)
ROLES = {word: role for role, words in _WORDS.items() for word in words}
NAMES = "|".join(sorted(ROLES, key=len, reverse=True))
_CHINESE = "|".join(sorted((word for word in ROLES if not word.isascii()), key=len, reverse=True))
# Forms of a mark; `{}` stands for the names, and the name is the first group that is not empty.
_FORMS = {
    "tag": r"<({})>[ \t]*[:：]?[ \t]*",
    "bracket": r"[\[【]({})[\]】][ \t]*[:：]?[ \t]*",
    "heading": r"(?:^|(?<=\n))[ \t]*#{{2,6}}[ \t]*({})[ \t]*[:：]?[ \t]*",
    "colon": r"(?:^|(?<=\n))[ \t]*(?:\*\*)?({})[ \t]*(?:\*\*)?[:：](?:\*\*)?[ \t]*",
    # Chinese is written without spaces and often without line breaks between the turns.
    "chinese": r"(?:^|\s)({})[:：][ \t]*",
}
# In hh-rlhf's texts, turns are apart from each other; a mark on the next line is text.
_APART = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
_APART_MARK = re.compile(r"(?:^|(?<=\n\n))(Human|Assistant):")


@dataclass(frozen=True)
class Transcript:
    """The turns of a marked text.

    Args:
        form: how its marks are written.
        words: what its speakers are called, by role.
        turns: its turns.
    """

    form: str
    words: dict[str, str]
    turns: list[dict[str, Any]]

    @property
    def mark(self) -> str:
        """The user's mark, for messages."""
        word = self.words["user"]
        return {"tag": f"<{word}>", "bracket": f"[{word}]", "heading": f"### {word}:"}.get(
            self.form, f"{word}:"
        )


def paired(mark: str) -> bool:
    """Return whether a user's mark is that of a question, which an answer follows."""
    return mark.rstrip(":").lower() in PARTNERS


def apart(text: str) -> Transcript | None:
    """Return the turns of a text as hh-rlhf has them: `Human:` and, after an empty line,
    `Assistant:`; None if it has none."""
    return _in_form(text.lstrip(), "colon", _APART_MARK) if _APART.match(text) else None


def transcript(text: str) -> Transcript | None:
    """Return the turns of a text that begins with a mark of its user or system; else None.

    Its speakers have one word each; what looks like another mark is text.
    Before headings (`### Instruction:`) there may be a preamble, which is a system turn.
    """
    text = text.lstrip()
    begun = [form for form in _FORMS if form == "heading" or _matcher(form).match(text)]
    found = [each for form in begun if (each := _in_form(text, form, _matcher(form)))]
    answered = [each for each in found if "assistant" in each.words]
    return next(iter(answered or found), None)


def transcript_of(texts: Sequence[str]) -> Transcript | None:
    """Return the turns of texts that each begin with a mark of one form; else None."""
    stripped = [text.lstrip() for text in texts]
    for form in _FORMS:
        found = [_matcher(form).match(text) for text in stripped]
        marks = [mark for mark in found if mark]
        if not marks or len(marks) < len(texts):
            continue
        words = _speakers(marks)
        if "user" in words and _role(marks[0]) in ("user", "system"):
            turns = [
                {"role": _role(mark), "content": text[mark.end() :].strip()}
                for mark, text in zip(marks, stripped, strict=True)
            ]
            return Transcript(form, words, turns)
    return None


def _in_form(text: str, form: str, matcher: re.Pattern[str]) -> Transcript | None:
    marks = list(matcher.finditer(text))
    words = _speakers(marks)
    if not marks or "user" not in words:
        return None
    first = _role(marks[0])
    preamble = text[: marks[0].start()].strip()
    if first not in ("user", "system") or (preamble and form != "heading"):
        return None
    marks = [mark for mark in marks if mark[1] == words[_role(mark)]]
    turns: list[dict[str, Any]] = []
    if preamble:
        turns.append({"role": "system", "content": preamble})
    ends = [mark.start() for mark in marks[1:]]
    for mark, end in zip(marks, chain(ends, [len(text)]), strict=True):
        role, said = _role(mark), text[mark.end() : end].strip()
        said = said.removesuffix(f"</{mark[1]}>").rstrip() if form == "tag" else said
        if role == "input" and turns and turns[-1]["role"] == "user":
            turns[-1]["content"] = "\n\n".join(
                each for each in (turns[-1]["content"], said) if each
            )
        else:
            turns.append({"role": "user" if role == "input" else role, "content": said})
    return Transcript(form, words, turns)


def _speakers(marks: Sequence[re.Match[str]]) -> dict[str, str]:
    """What the speakers are called: the first words, but an assistant's that suits the user's."""
    words: dict[str, str] = {}
    for mark in marks:
        words.setdefault(_role(mark), mark[1])
    if "user" in words:
        partners = PARTNERS.get(words["user"].lower())
        for mark in marks:
            word = mark[1].lower()
            suits = word in partners if partners else word not in _PARTNERED
            if _role(mark) == "assistant" and suits:
                return {**words, "assistant": mark[1]}
    return words


@cache
def _matcher(form: str) -> re.Pattern[str]:
    names = _CHINESE if form == "chinese" else NAMES
    return re.compile(_FORMS[form].format(names), re.IGNORECASE)


def _role(mark: re.Match[str]) -> str:
    return ROLES[mark[1].lower()]
