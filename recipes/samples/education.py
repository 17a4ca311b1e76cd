"""Education sample: grade-school word problems, with the reasoning written out before the answer.

Every number is computed: a problem names the ranges of its given numbers and its steps, and each
{step} in the reasoning is shown as "6 × 4 = 24".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from make import Draw, Row

OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "×": lambda a, b: a * b,
    "÷": lambda a, b: a // b,
}
# Rows written from each English and each Chinese problem.
COUNTS = {"train": (9, 5), "eval": (5, 2)}


@dataclass(frozen=True)
class Problem:
    """One word problem; `hidden` steps compute given numbers that must divide evenly."""

    question: str
    reasoning: str
    given: Mapping[str, tuple[int, int]]
    steps: tuple[str, ...]
    answer: str
    hidden: tuple[str, ...] = ()


PROBLEMS = {
    "train": [
        Problem(
            "{who} has {a} boxes with {b} pencils in each and finds {c} more. How many pencils "
            "does {who} have now?",
            "The boxes hold {s} pencils. With the ones found, {who} has {t} pencils.",
            {"a": (3, 9), "b": (4, 12), "c": (2, 15)},
            ("s = a × b", "t = s + c"),
            "{t}",
        ),
        Problem(
            "A baker makes {a} trays of {b} rolls and sells {c} rolls. How many rolls are left?",
            "The baker makes {s} rolls. After the sale, {t} rolls are left.",
            {"a": (4, 9), "b": (8, 12), "c": (5, 30)},
            ("s = a × b", "t = s - c"),
            "{t}",
        ),
        Problem(
            "{who} shares {n} stickers equally among {a} friends. How many does each friend get?",
            "Each friend gets {s} stickers.",
            {"a": (2, 9), "b": (3, 12)},
            ("s = n ÷ a",),
            "{s}",
            ("n = a × b",),
        ),
        Problem(
            "A ticket costs ${a} for an adult and ${b} for a child. What do {c} adults and {d} "
            "children pay together?",
            "The adults pay {s} dollars and the children pay {t} dollars. Together that is {u} "
            "dollars.",
            {"a": (9, 15), "b": (4, 8), "c": (2, 4), "d": (2, 6)},
            ("s = a × c", "t = b × d", "u = s + t"),
            "${u}",
        ),
        Problem(
            "{who} reads {a} pages a day. How many pages does {who} read in {b} weeks?",
            "There are {s} days in that time. So {who} reads {t} pages.",
            {"a": (5, 20), "b": (2, 5), "seven": (7, 7)},
            ("s = b × seven", "t = s × a"),
            "{t}",
        ),
        Problem(
            "{who} had {a} marbles, won {b} and then lost {c}. How many marbles are left?",
            "After winning there are {s} marbles. After losing there are {t} marbles.",
            {"a": (12, 40), "b": (5, 20), "c": (3, 16)},
            ("s = a + b", "t = s - c"),
            "{t}",
        ),
        Problem(
            "A rectangular garden is {a} meters long and {b} meters wide. What is its perimeter?",
            "Length and width together are {s} meters. The perimeter is {t} meters.",
            {"a": (8, 20), "b": (3, 7), "two": (2, 2)},
            ("s = a + b", "t = s × two"),
            "{t} meters",
        ),
        Problem(
            "A train travels {a} kilometers in {b} hours at a steady speed. How far does it go in "
            "one hour?",
            "In one hour it goes {s} kilometers.",
            {"b": (2, 6), "v": (40, 90)},
            ("s = a ÷ b",),
            "{s} kilometers",
            ("a = b × v",),
        ),
        Problem(
            "{who} saves ${a} each week for {b} weeks and then spends ${c} on a gift. How much "
            "money is left?",
            "{who} saves {s} dollars. After the gift, {t} dollars are left.",
            {"a": (5, 15), "b": (4, 10), "c": (6, 18)},
            ("s = a × b", "t = s - c"),
            "${t}",
        ),
        Problem(
            "A class of {n} pupils forms teams of {a}, and each team needs {c} balls. How many "
            "balls are needed?",
            "There are {s} teams. They need {t} balls.",
            {"a": (3, 6), "b": (4, 7), "c": (2, 4)},
            ("s = n ÷ a", "t = s × c"),
            "{t}",
            ("n = a × b",),
        ),
        Problem(
            "{who} buys {a} notebooks at ${b} each and pays with ${c}. How much change is due?",
            "The notebooks cost {s} dollars. The change is {t} dollars.",
            {"a": (2, 6), "b": (2, 7), "c": (50, 50)},
            ("s = a × b", "t = c - s"),
            "${t}",
        ),
        Problem(
            "A farmer has {a} hens and {b} ducks and buys {c} more hens. How many birds are there "
            "now?",
            "First there are {s} birds. After the purchase there are {t} birds.",
            {"a": (10, 40), "b": (5, 25), "c": (3, 15)},
            ("s = a + b", "t = s + c"),
            "{t}",
        ),
    ],
    "eval": [
        Problem(
            "On Monday {who} picks {a} apples, and on Tuesday {b} fewer than on Monday. How many "
            "apples is that in total?",
            "On Tuesday {who} picks {s} apples. In total there are {t} apples.",
            {"a": (20, 50), "b": (4, 15)},
            ("s = a - b", "t = a + s"),
            "{t}",
        ),
        Problem(
            "A parking lot has {a} rows with {b} spaces each, and {c} spaces are taken. How many "
            "are free?",
            "The lot has {s} spaces. Of these, {t} are free.",
            {"a": (4, 9), "b": (10, 15), "c": (8, 35)},
            ("s = a × b", "t = s - c"),
            "{t}",
        ),
        Problem(
            "A rope of {n} centimeters is cut into {a} equal pieces. How long is each piece?",
            "Each piece is {s} centimeters long.",
            {"a": (3, 8), "b": (11, 30)},
            ("s = n ÷ a",),
            "{s} centimeters",
            ("n = a × b",),
        ),
        Problem(
            "One ride at the fair costs {a} tokens. {who} and {b} cousins all go on {c} rides. "
            "How many tokens do they use?",
            "There are {s} people. Each uses {t} tokens, so all of them use {u} tokens.",
            {"a": (2, 5), "b": (2, 4), "c": (2, 5), "one": (1, 1)},
            ("s = b + one", "t = a × c", "u = t × s"),
            "{u}",
        ),
        Problem(
            "{who} walks {a} meters to school and back again {b} times a week. How many meters is "
            "that each week?",
            "There and back is {s} meters. In a week that makes {t} meters.",
            {"a": (200, 900), "b": (3, 5), "two": (2, 2)},
            ("s = a × two", "t = s × b"),
            "{t} meters",
        ),
        Problem(
            "A jug holds {n} milliliters of juice and fills {a} equal cups. How much juice is in "
            "{c} cups?",
            "One cup holds {s} milliliters. Then {c} cups hold {t} milliliters.",
            {"a": (4, 8), "b": (100, 250), "c": (2, 3)},
            ("s = n ÷ a", "t = s × c"),
            "{t} milliliters",
            ("n = a × b",),
        ),
    ],
}
CHINESE_PROBLEMS = {
    "train": [
        Problem(
            "{who}有{a}盒铅笔，每盒{b}支，又买了{c}支。现在一共有多少支铅笔？",
            "盒里的铅笔有{s}支。加上新买的，一共{t}支。",
            {"a": (3, 8), "b": (5, 12), "c": (2, 15)},
            ("s = a × b", "t = s + c"),
            "{t}支",
        ),
        Problem(
            "图书馆有{a}本书，借出{b}本，又还回{c}本。现在有多少本书？",
            "借出后剩下{s}本。还回后有{t}本。",
            {"a": (200, 400), "b": (30, 120), "c": (10, 29)},
            ("s = a - b", "t = s + c"),
            "{t}本",
        ),
        Problem(
            "把{n}颗糖平均分给{a}个孩子，每个孩子得到几颗糖？",
            "每个孩子得到{s}颗糖。",
            {"a": (3, 9), "b": (4, 12)},
            ("s = n ÷ a",),
            "{s}颗",
            ("n = a × b",),
        ),
        Problem(
            "一支钢笔{a}元，一个本子{b}元。买{c}支钢笔和一个本子要多少元？",
            "钢笔要{s}元。再加上本子，一共{t}元。",
            {"a": (6, 15), "b": (2, 5), "c": (2, 6)},
            ("s = a × c", "t = s + b"),
            "{t}元",
        ),
    ],
    "eval": [
        Problem(
            "果园里有{a}行苹果树，每行{b}棵，其中{c}棵已经采摘完。还有多少棵没有采摘？",
            "果园共有{s}棵树。没有采摘的有{t}棵。",
            {"a": (5, 9), "b": (10, 16), "c": (12, 40)},
            ("s = a × b", "t = s - c"),
            "{t}棵",
        ),
        Problem(
            "{who}每分钟走{a}米，走了{b}分钟到学校。家离学校多少米？",
            "家离学校{s}米。",
            {"a": (50, 80), "b": (6, 15)},
            ("s = a × b",),
            "{s}米",
        ),
        Problem(
            "一辆车每次运{a}箱货，{b}辆同样的车运了{c}次，一共运了多少箱？",
            "所有的车一次运{s}箱。一共运了{t}箱。",
            {"a": (12, 30), "b": (2, 5), "c": (2, 4)},
            ("s = a × b", "t = s × c"),
            "{t}箱",
        ),
    ],
}
NAMES = {"train": ["Anna", "Ben", "Carla", "Deniz", "Emeka", "Fatima"], "eval": ["Goran", "Hana"]}
CHINESE_NAMES = {"train": ["小明", "小红", "小刚"], "eval": ["小丽", "小军"]}


def rows(split: str, draw: Draw) -> list[Row]:
    """The same number of rows from every problem of the split."""
    num_english, num_chinese = COUNTS[split]
    return [
        *_rows(PROBLEMS[split], num_english, NAMES[split], draw),
        *_rows(CHINESE_PROBLEMS[split], num_chinese, CHINESE_NAMES[split], draw),
    ]


def _rows(problems: list[Problem], count: int, names: list[str], draw: Draw) -> list[Row]:
    result: dict[str, Row] = {}
    for index, problem in enumerate(problems, start=1):
        while len(result) < index * count:
            row = _row(problem, draw.pick(names), draw)
            result[row["question"]] = row
    return list(result.values())


def _row(problem: Problem, who: str, draw: Draw) -> Row:
    numbers = {name: draw.pick(range(lo, hi + 1)) for name, (lo, hi) in problem.given.items()}
    for step in problem.hidden:
        _compute(step, numbers)
    question = problem.question.format(who=who, **numbers)
    shown = {name: str(number) for name, number in numbers.items()}
    for step in problem.steps:
        name, expression = _compute(step, numbers)
        shown[name] = expression
    return {
        "question": question,
        "rationale": problem.reasoning.format(who=who, **shown),
        "answer": problem.answer.format(**numbers),
    }


def _compute(step: str, numbers: dict[str, int]) -> tuple[str, str]:
    """Carry out "s = a × b": store s, and return its name with the written-out calculation."""
    name, _, left, operator, right = step.split()
    a, b = numbers[left], numbers[right]
    numbers[name] = OPERATORS[operator](a, b)
    return name, f"{a} {operator} {b} = {numbers[name]}"
