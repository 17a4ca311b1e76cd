"""From the recipe's files to checked dialogues, split into train and eval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuner.data import bad_rows, read
from tuner.data.bad_rows import BadRow, Problems
from tuner.data.check_row import check
from tuner.data.dialogue import Dialogue, RowRenderer
from tuner.data.files import CHARACTERS_PER_TOKEN, SPARE_TOKENS
from tuner.data.split import fingerprint, held_out
from tuner.data.template_match import Fit, choose
from tuner.data.thumbs import is_down, thumb_columns
from tuner.errors import DataError
from tuner.recipe.schema import DataSection


@dataclass
class Rows:
    """Checked rows of both splits, and the facts about them that the report gives."""

    fit: Fit
    train: list[Dialogue]
    eval: list[Dialogue]
    bad: bad_rows.BadRows
    problems: Problems
    facts: dict[str, Any] = field(default_factory=dict)


def gather(data: DataSection, folder: Path, seed: int, max_length: int) -> Rows:
    """Read, render, check and split the rows.

    Raises:
        DataError: a file is missing or broken, rows are unfit, or a split is empty.
    """
    bad = bad_rows.BadRows(data.max_bad_rows)
    problems = Problems(bad)
    limit = None if data.long == "split" else (max_length + SPARE_TOKENS) * CHARACTERS_PER_TOKEN
    train_files = [read.find(name, folder, "data.train") for name in data.train]
    eval_files = [read.find(data.eval, folder, "data.eval")] if isinstance(data.eval, str) else []
    rows = read.read(train_files, bad, max_rows=data.max_rows, max_characters=limit)
    if not rows:
        raise _empty("train", train_files, bad)
    held = read.read(eval_files, bad, max_characters=limit)
    if eval_files and not held:
        raise _empty("eval", eval_files, bad)
    columns = _columns(rows + held)
    fit = choose(data, columns, folder)
    thumbs = thumb_columns(fit.template, columns, fit.used, rows + held)
    liked, liked_held = _liked("train", rows, thumbs), _liked("eval", held, thumbs)
    renderer = RowRenderer(fit, data.labels)
    train, blank = _dialogues(liked, renderer, problems, train_files)
    held_dialogues, blank_held = _dialogues(liked_held, renderer, problems, eval_files)
    problems.stop_if_too_many()
    if not train:
        raise _empty("train", train_files, bad, blank)
    if eval_files and not held_dialogues:
        raise _empty("eval", eval_files, bad, blank_held)
    result = Rows(fit, train, held_dialogues, bad, problems)
    down = len(rows + held) - len(liked + liked_held)
    result.facts = {
        "files": [_file(path, rows + held) for path in [*train_files, *eval_files]],
        "rows_in": len(rows) + len(held),
        "blank_rows": blank + blank_held,
        "thumbs_down_rows": down,
        "ignored_columns": [
            name for name in columns if name not in fit.used and not (down and name in thumbs)
        ],
        "rows_cut_while_reading": [row.id for row in rows + held if row.cut_characters],
    }
    _split(result, data, seed)
    return result


def _liked(split: str, rows: list[read.Row], thumbs: Sequence[str]) -> list[read.Row]:
    """The rows without those whose answer is disliked: supervised learning has no use for it."""
    liked = [row for row in rows if not is_down(row, thumbs)]
    if rows and not liked:
        raise DataError(
            f"the {split} split is empty",
            f"all {len(rows)} rows are thumbs-down (column {', '.join(thumbs)}), and disliked "
            "answers are not trained on",
            "add liked answers; or learn from both kinds: tuner reward, or tuner rlhf with "
            "rlhf.algorithm: dpo",
        )
    return liked


def _dialogues(
    rows: Iterable[read.Row], renderer: RowRenderer, problems: Problems, files: list[Path]
) -> tuple[list[Dialogue], int]:
    """The rows' dialogues and how many raw texts were blank."""
    dialogues = []
    blank = 0
    for row in rows:
        try:
            dialogue = renderer.render(row)
            if renderer.template.text is not None and not dialogue.answer.strip():
                blank += 1
                continue
            check(dialogue)
        except BadRow as problem:
            problems.add(row.id, str(problem))
        else:
            dialogues.append(replace(dialogue, source=files.index(row.path)))
    return dialogues, blank


def _split(rows: Rows, data: DataSection, seed: int) -> None:
    marks = [fingerprint(dialogue) for dialogue in rows.train]
    leaked = 0
    if isinstance(data.eval, str):
        known = set(marks)
        kept = [dialogue for dialogue in rows.eval if fingerprint(dialogue) not in known]
        leaked = len(rows.eval) - len(kept)
        if not kept:
            raise DataError(
                "the eval split is empty",
                f"all {leaked} rows of {data.eval} are also in the training rows",
                "hold out rows that are not trained on, or set data.eval to a fraction",
            )
        rows.eval = kept
    elif data.eval:
        chosen = held_out(marks, data.eval, seed)
        both = list(zip(rows.train, marks, strict=True))
        rows.eval = [dialogue for dialogue, mark in both if mark in chosen]
        rows.train = [dialogue for dialogue, mark in both if mark not in chosen]
        marks = [mark for mark in marks if mark not in chosen]
    rows.facts["duplicates_in_train"] = len(marks) - len(set(marks))
    rows.facts["eval_rows_also_in_train"] = leaked


def _columns(rows: Iterable[read.Row]) -> list[str]:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row.values))
    return list(names)


def _file(path: Path, rows: Iterable[read.Row]) -> dict[str, Any]:
    count = sum(row.path == path for row in rows)
    return {"name": path.name, "sha256": read.sha256(path), "rows": count}


def _empty(split: str, files: list[Path], bad: bad_rows.BadRows, blank: int = 0) -> DataError:
    names = ", ".join(str(path) for path in files)
    why = f"{names}: no rows"
    if bad.found or blank:
        why = f"{names}: {len(bad.found)} bad and {blank} blank rows were left out, none is left"
    return DataError(f"the {split} split is empty", why, f"point data.{split} to a file with rows")
