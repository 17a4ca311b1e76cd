"""Which rows are held out: decided by their text, not by their position."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tuner.console.formatting import counted
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection, named

# With more different answers than these, they are texts, not labels.
MOST_LABELS = 64

Key = TypeVar("Key", bound=Hashable)


@dataclass
class Group:
    """Rows that are on the same side.

    Args:
        order: decides, by size, when it is the group's turn to be held out.
        rows: how many there are.
        label: what they are stratified by; None: nothing.
    """

    order: bytes
    rows: int = 0
    label: str | None = None


def shares(counts: Mapping[Key, int], wanted: int) -> dict[Key, int]:
    """Return how many of each kind make `wanted` together, in proportion to their counts.

    The largest remainders are rounded up; each kind gets one at least, if that is possible.
    """
    total = sum(counts.values())
    wanted = min(wanted, total)
    exact = {key: wanted * count / max(1, total) for key, count in counts.items()}
    least = int(wanted >= sum(map(bool, counts.values())))
    found = {key: max(int(part), min(least, counts[key])) for key, part in exact.items()}
    short = sorted(exact, key=lambda key: (found[key] - exact[key], str(key)))
    while (missing := wanted - sum(found.values())) > 0:
        for key in [each for each in short if found[each] < counts[each]][:missing]:
            found[key] += 1
    while (over := sum(found.values()) - wanted) > 0:
        for key in [each for each in reversed(short) if found[each] > least][:over]:
            found[key] -= 1
    return found


def held_out(groups: Mapping[str, Group], amount: int | float, by_prompt: bool = False) -> set[str]:
    """Choose the groups to hold out.

    The choice depends on the rows' texts and the seed in `order`, not on their places. Of every
    label with two groups or more, one at least is on each side, if `amount` allows.

    Args:
        groups: by their key.
        amount: a share of the rows below 1, or a number of rows.
        by_prompt: a group is a prompt.

    Raises:
        DataError: nothing would be left to train on, or nothing could be held out.
    """
    rows = sum(group.rows for group in groups.values())
    wanted = amount if isinstance(amount, int) else max(1, round(amount * rows))
    quotas = _quotas(groups.values(), wanted)
    left = Counter(group.label for group in groups.values())
    turns = sorted(groups, key=lambda key: groups[key].order)
    chosen: set[str] = set()
    count = 0
    for quota in (quotas, dict.fromkeys(left, wanted) if len(quotas) > 1 else {}):
        for key in turns:
            group = groups[key]
            here, label = group.rows, group.label
            if key in chosen or here > min(quota.get(label, 0), wanted - count):
                continue
            if len(quotas) > 1 and left[label] == 1:
                continue
            chosen.add(key)
            count += here
            quota[label] -= here
            left[label] -= 1
    if len(chosen) == len(groups) or wanted >= rows:
        raise DataError(
            "the train split is empty",
            f"data.eval: {amount} holds out all {counted(rows, 'row')}",
            "hold out fewer rows, or set data.eval: 0",
        )
    if not chosen:
        raise DataError(
            "the eval split is empty",
            f"the {counted(rows, 'row')} have "
            f"{counted(len(groups), 'prompt' if by_prompt else 'text')}, too few to hold out "
            f"{counted(wanted, 'row')} without one that is also trained on",
            "add other rows, or set "
            + ("data.split: row (by whole row), or " if by_prompt else "")
            + "data.eval: 0",
        )
    return chosen


def _quotas(groups: Iterable[Group], wanted: int) -> dict[str | None, int]:
    """Rows to hold out of each label, one group of each left to train on."""
    rows: Counter[str | None] = Counter()
    smallest: dict[str | None, int] = {}
    for group in groups:
        rows[group.label] += group.rows
        smallest[group.label] = min(group.rows, smallest.get(group.label, group.rows))
    found = shares({label: count - smallest[label] for label, count in rows.items()}, wanted)
    return found if len(rows) > 1 else dict.fromkeys(rows, wanted)


class Marked(Protocol):
    """What can be held out."""

    @property
    def mark(self) -> str:
        """Fingerprint of the row, or of its prompt where rows have several answers."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Fingerprints of the prompts that it answers, that of its last answer first."""


Item = TypeVar("Item", bound=Marked)
LabelOf = Callable[[Item], str | None]


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Two splits without a common mark.

    Args:
        train: what is trained on.
        eval: what is held out.
        facts: what the report says of copies in train and across the splits, and of labels.
    """

    train: list[Item]
    eval: list[Item]
    facts: dict[str, Any]


def split(
    train: list[Item],
    held: list[Item],
    data: DataSection,
    seed: int,
    unit: str,
    label_of: LabelOf[Item],
) -> Split[Item]:
    """Hold out a share or a number of `train`, or make `held` free of the prompts of `train`.

    Args:
        train: items of the training files.
        held: items of the eval file; empty where `data.eval` is not a file.
        data: the recipe's data section.
        seed: chooses what is held out.
        unit: what an item is called in messages.
        label_of: what an item is stratified by; None: nothing.

    Raises:
        DataError: a split would be empty.
    """
    keys = [item.mark for item in (*train, *held)]
    if data.split == "prompt":
        keys = _by_prompt([item.prompts for item in (*train, *held)])
    pairs, others = (
        list(zip(items, mine, strict=True))
        for items, mine in ((train, keys[: len(train)]), (held, keys[len(train) :]))
    )
    leaked = 0
    facts: dict[str, Any] = {}
    if isinstance(data.eval, str | SourceSection):
        name = named(data.eval)
        known = set(keys[: len(train)])
        held = [item for item, key in others if key not in known]
        leaked = len(others) - len(held)
        if not held:
            raise DataError(
                "the eval split is empty",
                f"all {leaked} {unit} of {name} are also in the training rows"
                if data.split == "row"
                else f"the prompts of all {leaked} {unit} of {name} are also in the training rows",
                f"hold out {unit} that are not trained on, or set data.eval to a fraction"
                + ("" if data.split == "row" else "; data.split: row leaves out equal rows only"),
            )
    elif data.eval:
        groups = _groups(pairs, seed)
        if data.split == "prompt":
            facts = _label(groups, pairs, label_of)
        chosen = held_out(groups, data.eval, data.split == "prompt")
        held = [item for item, key in pairs if key in chosen]
        train = [item for item, key in pairs if key not in chosen]
        if facts:
            facts = _counts(train, held, label_of)
    copies = len(train) - len({item.mark for item in train})
    return Split(
        train, held, {"duplicates_in_train": copies, "eval_rows_also_in_train": leaked, **facts}
    )


def _by_prompt(prompts: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a key for each item: the same for those that answer the same prompt, even if only
    one of them goes on after that."""
    last = {each[0] for each in prompts}
    leads: dict[str, str] = {}

    def root(mark: str) -> str:
        while (above := leads.get(mark, mark)) != mark:
            leads[mark] = leads.get(above, above)
            mark = above
        return mark

    for own, *earlier in prompts:
        for mark in earlier:
            if mark in last and root(mark) != root(own):
                leads[root(own)] = root(mark)
    return [root(own) for own, *_ in prompts]


def _groups(pairs: Sequence[tuple[Marked, str]], seed: int) -> dict[str, Group]:
    """The rows of each key. Their turn does not depend on what the key is made from."""
    turns: dict[str, bytes] = {}
    groups: dict[str, Group] = {}
    for item, key in pairs:
        if item.mark not in turns:
            turns[item.mark] = hashlib.sha256(f"{seed}:{item.mark}".encode()).digest()
        group = groups.setdefault(key, Group(turns[item.mark]))
        group.order = min(group.order, turns[item.mark])
        group.rows += 1
    return groups


def _label(
    groups: Mapping[str, Group], pairs: Sequence[tuple[Item, str]], label_of: LabelOf[Item]
) -> dict[str, Any]:
    """Give each group the label of most of its rows; nothing if that tells no rows apart."""
    found: dict[str, Counter[str]] = {}
    for item, key in pairs:
        if (label := label_of(item)) is not None:
            found.setdefault(key, Counter())[label] += 1
    labels = {key: min(each, key=lambda one: (-each[one], one)) for key, each in found.items()}
    several = Counter(labels.values())
    if len(several) > MOST_LABELS or max(several.values(), default=1) < 2:
        return {}
    for key, label in labels.items():
        groups[key].label = label
    return {"labels": True}


def _counts(train: Sequence[Item], held: Sequence[Item], label_of: LabelOf[Item]) -> dict[str, Any]:
    """Count the labels of both splits."""
    sides = [Counter(label for each in side if (label := label_of(each))) for side in (train, held)]
    names = sorted({*sides[0], *sides[1]})
    shown = [{name: side[name] for name in names} for side in sides]
    alone = [name for name in names if not sides[1][name]]
    return {
        "labels_train": shown[0],
        "labels_eval": shown[1],
        "labels_not_held_out": alone,
    }
