"""Notice periods: was the notice given in time? Half of the rows reason before they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from make import Draw

Row = dict[str, Any]

COUNTS = {"train": 60, "eval": 16}
CONTRACTS = {
    "train": ("lease", "licence", "service contract", "loan", "supply contract", "policy"),
    "eval": ("membership", "maintenance contract", "work contract", "subscription"),
}
ASKED = {
    "train": (
        "The {contract} asks for {needed} days of notice. {given} were given. Was that enough?",
        "{given} days of notice were given. The {contract} asks for {needed}. Was that enough?",
    ),
    "eval": (
        "The {contract} asks for {needed} days of notice. {given} were given. Was that enough?",
    ),
}
PERIODS = (14, 20, 30, 45, 60, 90)


def rows(split: str, draw: Draw) -> list[Row]:
    """Every second conversation has reasoning; as many notices are late as are in time."""
    made: list[Row] = []
    asked: set[str] = set()
    while (number := len(made)) < COUNTS[split]:
        needed, late = PERIODS[number % len(PERIODS)], number // 2 % 2 == 1
        far = draw.random.randint(1, 9)
        given = needed - far if late else needed + far
        question = draw.pick(ASKED[split]).format(
            contract=draw.pick(CONTRACTS[split]), needed=needed, given=given
        )
        if question in asked:
            continue
        asked.add(question)
        answer: Row = {"role": "assistant"}
        if number % 2 == 0:
            relation = "less" if late else "more"
            compared = f"{given} is {relation} than {needed}."
            answer["reasoning_content"] = f"Needed: {needed}. Given: {given}. {compared}"
        answer["content"] = "No, it was late." if late else "Yes, it was in time."
        made.append({"messages": [{"role": "user", "content": question}, answer]})
    return draw.shuffled(made)
