"""What a recipe says about the turns of every row: which are learned, the system turn, and the
column that reasoning is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.templates.template import Template
from tuner.data.turns import reasoning, turn_keys
from tuner.data.turns.reasoning import Message
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_learn import ROLES, LearnedRoles
from tuner.schema.suggest import listed, suggestion


@dataclass(frozen=True)
class TurnRules:
    """What a recipe says about the turns of every row.

    Attributes:
        learn: `data.learn`.
        system: text of the system turn of rows that have none.
        instruction: text before the first turn of the user.
        reasoning_column: column of the file whose text is the reasoning of the last answer.
        earlier: whether tools and calls are read as earlier versions read them.
        by_key: counts, by role, turns that are learned only because a key of theirs says so.
    """

    learn: str | LearnedRoles = "answers"
    system: str | None = None
    reasoning_column: str | None = None
    instruction: str | None = None
    earlier: bool = False
    by_key: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def of(cls, data: DataSection, earlier: bool = False) -> TurnRules:
        """Return those of a recipe's data section."""
        return cls(data.learn, data.system, data.reasoning_column, data.instruction, earlier)

    def of_source(self, own: DataSection) -> TurnRules:
        """Return them with what is a source's own."""
        return replace(self, system=own.system, instruction=own.instruction)

    def applied(self, turns: Sequence[Message], columns: Mapping[str, Any]) -> tuple[Message, ...]:
        """Return the turns of a row, up to the last one that is learned, each with its reasoning
        apart and its weight in the loss.

        Args:
            turns: as the row has them.
            columns: all of the row's.

        Raises:
            BadRow: a turn is malformed, or none is learned.
        """
        turns = self._instructed(self._reasoned(turns, columns))
        given = [turn_keys.taken(reasoning.separated(turn)) for turn in turns]
        asked = [weight for _, weight in given]
        chosen = self._chosen([turn["role"] for turn, _ in given], asked)
        messages = [
            turn_keys.weighed(turn, float(number in chosen) if weight is None else weight)
            for number, (turn, weight) in enumerate(given)
        ]
        learned = [number for number, turn in enumerate(messages) if turn_keys.weight(turn)]
        self.by_key.update(messages[number]["role"] for number in learned if number not in chosen)
        if not learned and any(turn["role"] == "assistant" for turn in messages):
            raise BadRow(f"no turn is learned: {self._why_none()}")
        messages = messages[: learned[-1] + 1] if learned else []
        if self.system and messages and not any(turn["role"] == "system" for turn in messages):
            first: Message = {"role": "system", "content": self.system}
            number = 1.0 if "system" in self._roles() else 0.0
            messages.insert(0, turn_keys.weighed(first, number))
        return tuple(messages)

    def _reasoned(self, turns: Sequence[Message], columns: Mapping[str, Any]) -> list[Message]:
        """The turns with the reasoning of the row's column before the last answer."""
        said = columns.get(self.reasoning_column) if self.reasoning_column else None
        if said is None or (isinstance(said, str) and not said.strip()):
            return list(turns)
        if not isinstance(said, str):
            raise BadRow(f"the column '{self.reasoning_column}' is not text")
        last = max((n for n, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
        if last is None:
            raise BadRow(f"there is reasoning ({self.reasoning_column}), but no answer")
        # Next to the turn's own, which may say the same.
        own = reasoning.separated(turns[last])
        if said.strip() != own.get(reasoning.KEY, said.strip()):
            raise BadRow(
                f"the column '{self.reasoning_column}' and the last answer have different reasoning"
            )
        return [*turns[:last], {**own, reasoning.KEY: said.strip()}, *turns[last + 1 :]]

    def _instructed(self, turns: list[Message]) -> list[Message]:
        """The turns with the instruction before the first one of the user."""
        place = next((n for n, turn in enumerate(turns) if turn["role"] == "user"), None)
        if not self.instruction or place is None:
            return turns
        first = turns[place]
        if not isinstance(said := first.get("content"), str):
            return turns
        first = {**first, "content": instructed(self.instruction, said)}
        return [*turns[:place], first, *turns[place + 1 :]]

    def _roles(self) -> Sequence[str]:
        if isinstance(self.learn, LearnedRoles):
            return self.learn.roles
        return ROLES if self.learn == "all" else ("assistant",)

    def _chosen(self, roles: Sequence[str], asked: Sequence[float | None]) -> set[int]:
        """The turns that are learned if no key of theirs says otherwise."""
        wanted = self._roles()
        chosen = [number for number, role in enumerate(roles) if role in wanted]
        if self.learn == "last_answer":
            chosen = [number for number in chosen if asked[number] != 0][-1:]
        return set(chosen)

    def _why_none(self) -> str:
        if isinstance(self.learn, LearnedRoles):
            return f"data.learn names only {listed(self.learn.roles)}"
        return "all of the assistant's are masked"


def instructed(instruction: str, text: str) -> str:
    """Return a text with an instruction before it."""
    return f"{instruction.rstrip()}\n\n{text}"


def refuse_unknown_column(data: DataSection, columns: Sequence[str]) -> None:
    """Refuse a `data.reasoning_column` that no file has.

    Raises:
        DataError: with the columns.
    """
    name = data.reasoning_column
    if name is not None and name not in columns:
        columns = [*dict.fromkeys(columns)]
        raise DataError(
            f"data.reasoning_column: the data has no column '{name}'",
            f"found: {', '.join(columns)}",
            suggestion(name, columns),
        )


def refuse_misplaced(data: DataSection, templates: Sequence[Template], head: str) -> None:
    """Refuse keys about turns where there are none, or for a model that reads no chat.

    Raises:
        RecipeError: one of them is set.
    """
    if all(template.raw for template in templates):
        why = f"the data template '{templates[0].name}' makes plain text, which has no turns"
        refuse_rules(data, why, "learn", "system", "reasoning_column")
    if all(template.text is not None for template in templates):
        why = f"the data template '{templates[0].name}' makes plain text, all of which is learned"
        refuse_rules(data, why, "instruction")
    if head != "language":
        why = "an encoder-decoder or a classifier reads a prompt and learns its answer"
        refuse_rules(data, why, "learn", "system")


def refuse_own_texts(own: DataSection, data: DataSection, template: Any) -> None:
    """Refuse a source's own system turn or instruction where its rows are plain text.

    Raises:
        RecipeError: it has one.
    """
    if not isinstance(template, Template):
        return
    if own.system not in (None, data.system) and template.raw:
        what, why = "a system turn", "which has no turns"
    elif own.instruction not in (None, data.instruction) and template.text is not None:
        what, why = "an instruction", "all of which is learned"
    else:
        return
    raise RecipeError(
        f"{what} for rows of the data template '{template.name}'",
        f"it makes plain text, {why}",
        "leave that text out, or use another template",
    )


def refuse_rules(data: DataSection, why: str, *keys: str) -> None:
    """Refuse keys about turns that a task or a kind of rows cannot follow.

    Args:
        data: the recipe's data section.
        why: the reason.
        keys: of the section.

    Raises:
        RecipeError: one of them is set.
    """
    for key in keys:
        if getattr(data, key) != DataSection.model_fields[key].default:
            raise RecipeError(f"data.{key} has no place here", why, f"leave out data.{key}")
