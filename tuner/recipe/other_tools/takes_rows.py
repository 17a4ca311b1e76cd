"""Settings of other tools about rows, whose value is not simply taken."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.recipe.other_tools.row import Given, Here, flag, left_out, lost, number


def words(place: str, given: Given) -> Here:
    """Names, in a list or with commas."""
    value = given.value
    names = value if isinstance(value, list) else [each.strip() for each in str(value).split(",")]
    return Here({place: names})


def held_out(place: str, given: Given) -> Here:
    """A share or a number of training rows."""
    size = number(given.value, -1)
    if size < 0:
        return lost(f"'{given.value}' is no share and no number of rows")
    return Here({place: int(size) if size >= 1 or size == 0 else size})


def one_file(place: str, given: Given) -> Here:
    """Held-out rows of their own."""
    files = given.value if isinstance(given.value, list) else str(given.value).split(",")
    names = [str(each.get("path", each)) if isinstance(each, Mapping) else each for each in files]
    if len(names) > 1:
        return lost(f"held-out rows are in one file: join {', '.join(map(str.strip, names))}")
    return Here({place: names[0].strip()}, "a file with rows")


def long_rows(place: str, given: Given) -> Here:
    """What becomes of rows over the maximum length, in Axolotl and ms-swift."""
    word = str(given.value).lower()
    if word in ("drop", "delete"):
        return Here({"data.cut": "drop"})
    if word == "raise":
        return Here({"data.long": "error"})
    if word == "split":
        return Here({"data.long": "split"})
    return left_out("rows lose their document or oldest turns (data.cut), not the answer")


def packing(place: str, given: Given) -> Here:
    """Packed rows: a step of another tool has so many packs, of ours so many rows."""
    if flag(given.value) is not True:
        return left_out("packed rows do not see each other here: the result is the same")
    return lost(
        "a step there has so many packs of the maximum length, here train.batch_size rows: raise "
        "it to as many rows as those packs hold (`tuner plan` shows the tokens of a row)"
    )


def learned(place: str, given: Given) -> Here:
    """Whose turns are learned."""
    roles = given.value if isinstance(given.value, list) else [given.value]
    names = {"human": "user", "gpt": "assistant", "model": "assistant", "function": "tool"}
    known = [names.get(str(role), str(role)) for role in roles]
    return Here({place: "answers" if known == ["assistant"] else {"roles": known}})


def new_tokens(place: str, given: Given) -> Here:
    """Tokens to add, in a list or with commas; Axolotl's mapping names known ones."""
    if isinstance(given.value, Mapping):
        return special_tokens(place, given)
    return Here(words(place, given).keys, "their rows are trained")


def special_tokens(place: str, given: Given) -> Here:
    """Tokens of the tokenizer that are replaced."""
    named = given.value if isinstance(given.value, Mapping) else {}
    if named and set(named) <= {"pad_token"}:
        return left_out("padding is never learned, whatever its token")
    return lost("the base keeps its own special tokens; a chat template's end of turn ends answers")


def max_rows(place: str, given: Given) -> Here:
    """The first rows of each data set."""
    return Here({place: given.value, "data.draw": "first"}, "the first rows, as there")


def text_column(place: str, given: Given) -> Here:
    """The column with plain text."""
    return Here({place: {"text": given.value}})
