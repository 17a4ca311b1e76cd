"""What the columns of preference data are called: the field's names, in English and in Chinese."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tuner.data.columns import thumb_words
from tuner.schema.suggest import plain

# By column of a format; the first one present counts. Of the names that earlier versions read, the
# order is theirs.
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": (
        *("prompt", "messages", "conversations", "conversation", "instruction", "question"),
        *("query", "problem", "提示", "提示词", "指令", "问题", "提问", "input", "输入", "context"),
        *("post", "history", "历史"),
    ),
    "input": ("input", "输入"),
    "history": ("history", "历史", "对话历史", "历史对话"),
    "system": ("system", "system prompt", "system message", "系统", "系统提示", "系统提示词"),
    "tools": ("tools",),
    "margin": ("margin",),
    "answers": (
        *("answers", "responses", "completions", "ranking", "candidates", "outputs"),
        *("generations", "output", "回答", "答案", "回复", "输出", "候选回答"),
    ),
    "ranks": ("ranks", "rank", "名次", "排名"),
    "scores": ("scores", "ratings", "rewards", "评分", "得分", "分数"),
    "label": (*thumb_words.NAMES, *thumb_words.OPPOSITE),
    "completion": (
        *("completion", "response", "answer", "output", "回答", "答案", "回复", "输出"),
    ),
    "winner": (
        *("winner", "preference", "preferred", "choice", "better", "best", "chosen", "label"),
        *("labels", "better response id", "better response", "preferred response", "verdict"),
        *("human preference", "overall preference", "胜者", "偏好", "更好", "更优", "优选", "选择"),
    ),
}
# Names that a better and a worse answer have together.
CHOSEN_REJECTED = (
    ("chosen", "rejected"),
    ("chosen response", "rejected response"),
    ("response chosen", "response rejected"),
    ("preferred", "rejected"),
    ("preferred", "dispreferred"),
    ("accepted", "rejected"),
    ("better", "worse"),
    ("winner", "loser"),
    ("positive", "negative"),
    ("采纳", "拒绝"),
    ("优选", "拒绝"),
    ("接受", "拒绝"),
    ("更好", "更差"),
    ("好回答", "差回答"),
    ("正例", "负例"),
)
# A model's own column may say with 1 and 0 whether it wins.
SCORE = ("score", "rating", "reward", "quality", "winner model", "winner", "评分", "得分", "分数")
# What distinguishes two answers of a row, in the format's columns and in the file's.
NUMBERED = {
    ("1", "2"): (("1", "2"), ("一", "二"), ("first", "second")),
    ("0", "1"): (("0", "1"),),
    ("a", "b"): (("a", "b"), ("甲", "乙"), ("left", "right")),
}
ANSWER = (
    *("response", "answer", "output", "completion", "reply", "generation", "summary", "candidate"),
    *("text", "human ref", "conversation", "回答", "答案", "回复", "输出", "响应"),
)
# How columns begin that say something of which answer is better.
_SAYS_BETTER = re.compile("rank|winner|prefer|better|best")
# Parts of a task that no format of preference data has a column for.
_OTHER_PARTS = (
    *("passage", "document", "article", "contract", "background", "reference", "options"),
    *("choices", "hint", "hints", "law", "laws", "材料", "文章", "段落", "上下文", "背景", "选项"),
    *("合同", "法条"),
)


def named(present: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Yield the columns that have one of these names, in the names' order."""
    for name in names:
        yield from (column for column in present if plain(column) == plain(name))


def together(present: Sequence[str], pair: tuple[str, str]) -> dict[str, str]:
    """Return what the columns of a format are in the file that only go together: a better and a
    worse answer, two answers distinguished by `pair`, and the scores of each.

    Args:
        present: the columns of the file.
        pair: one of `NUMBERED`.
    """
    found: dict[str, str] = {}
    for names in CHOSEN_REJECTED:
        columns = [each for name in names for each in named(present, [name])]
        if len(columns) == len(names):
            found = dict(zip(("chosen", "rejected"), columns, strict=True))
            found |= _scores(present, dict(zip(("chosen", "rejected"), names, strict=True)))
            break
    for stem in ANSWER:
        for ends in NUMBERED[pair]:
            answers = [each for end in ends for each in named(present, [stem + end])]
            if len(answers) == len(ends) and not _further(present, stem, pair):
                sides = [f"answer_{side}" for side in pair]
                found |= dict(zip(sides, answers, strict=True))
                return found | _scores(present, dict(zip(pair, ends, strict=True)), stem)
    return found


def _scores(present: Sequence[str], sides: dict[str, str], stem: str = "") -> dict[str, str]:
    """The columns with the scores of both sides; none if one is missing."""
    found = {}
    for side, end in sides.items():
        names = [name for word in SCORE for name in (word + end, stem + end + word)]
        if column := next(named(present, names), None):
            found[f"score_{side}"] = column
    return found if len(found) == len(sides) else {}


def _further(present: Sequence[str], stem: str, pair: tuple[str, str]) -> bool:
    """Whether there are more than two such answers."""
    others = {"0", "1", "2", "3", "a", "b", "c"} - {*pair}
    return any(plain(column) in {plain(stem) + end for end in others} for column in present)


def of_the_task(column: str) -> bool:
    """Return whether a column is called like a part of the task."""
    names = {plain(name) for each in ALIASES.values() for name in each}
    names |= {plain(name) for each in CHOSEN_REJECTED for name in each}
    names |= {plain(name) for name in _OTHER_PARTS}
    ends = "|".join(end for each in NUMBERED.values() for pair in each for end in pair)
    stems = "|".join(map(plain, (*ANSWER, *SCORE)))
    numbered = re.fullmatch(rf"({stems})({ends}|\d|[a-e])", plain(column))
    return (
        plain(column) in names
        or numbered is not None
        or _SAYS_BETTER.match(plain(column)) is not None
    )


def asks(column: str) -> bool:
    """Return whether a column is called like a part of a prompt."""
    return plain(column) in {plain(name) for name in (*ALIASES["prompt"], *_OTHER_PARTS)}
