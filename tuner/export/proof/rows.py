"""The rows that an artefact is compared on: held-out ones, and rows that reveal no data.

Held-out rows stay in the run folder. The manifest of an artefact, which may be published, holds
rows of random tokens with the model's logits on them, so that it can be checked anywhere.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.tokens.example import Example
from tuner.data.tokens.prepared import EvalRow
from tuner.errors import IntegrityError
from tuner.export.proof import prompts
from tuner.export.proof.measure import NO_TARGET, ProbeRows, Targets
from tuner.plan.memory.estimate import PROBE_TOKENS
from tuner.record.disk import write_json

if TYPE_CHECKING:
    from tuner.plan.plan import Plan

FILE = "rows.json"
ROWS = 32
RANDOM_ROWS, RANDOM_TOKENS, ENTRIES = 4, 32, 8
_PLACES = (7, 15, 23, 31)
_SEED = 5


def of_plan(plan: Plan) -> ProbeRows:
    """Return the first held-out rows of a plan, or training rows if there are none, with the
    positions of their answers."""
    known = [row.example if isinstance(row, EvalRow) else row for row in plan.prepared.eval]
    return _of_rows(plan, known or list(plan.prepared.train))


def _of_rows(plan: Plan, all_rows: Sequence[Any]) -> ProbeRows:
    rows, targets = [], []
    for row in all_rows[:ROWS]:
        held = {"input_ids": list(row.input_ids[:PROBE_TOKENS])}
        if isinstance(row, Example) and row.target:
            held["decoder_input_ids"] = [plan.collate.start_id, *row.target[: PROBE_TOKENS - 1]]
        if plan.collate.tasks:
            held["task_ids"] = [row.task]
        rows.append(held)
        targets.append(_targets(row, held, added=plan.head.added))
    return ProbeRows(rows, targets)


def _targets(row: Any, held: dict[str, list[int]], *, added: bool) -> Targets:
    """Return where the logits of a row count, and which token should be there."""
    if added:
        label = getattr(row, "label", None)
        return [(0, NO_TARGET if label is None else label)]
    if isinstance(row, Example) and row.target:
        return list(enumerate(row.target[:PROBE_TOKENS]))
    ids = held["input_ids"]
    every = [(place - 1, ids[place]) for place in range(1, len(ids))]
    supervised = getattr(row, "supervised", [False] * len(ids))
    answers = [(place, token) for place, token in every if supervised[place + 1]]
    # Without an answer, as in the prompts of rlhf or after a long prompt, every token counts.
    return answers or every or [(0, NO_TARGET)]


def write_rows(plan: Plan) -> None:
    """Write rows of a plan to its run folder: held-out ones, training rows for formats that
    calibrate, and a few prompts."""
    parts = {"held_out": of_plan(plan), "calibration": _of_rows(plan, list(plan.prepared.train))}
    content: dict[str, Any] = {
        name: {"rows": part.rows, "targets": part.targets} for name, part in parts.items()
    }
    content["prompts"] = prompts.of_plan(plan)
    with contextlib.suppress(IntegrityError):
        # A resumed run keeps the moment at which its prompts were written first.
        if _undated(_read(plan.output)) == _undated(json.loads(json.dumps(content))):
            return
    write_json(plan.output / FILE, content)


def _undated(content: dict[str, Any]) -> dict[str, Any]:
    written = content.get("prompts", ())
    return content | {"prompts": [record | {"written": None} for record in written]}


def load(folder: Path, part: str = "held_out") -> ProbeRows | None:
    """Load the rows that a run kept; None if it kept none.

    Args:
        folder: of the run.
        part: held_out or calibration.

    Raises:
        IntegrityError: the file is damaged.
    """
    found = _read(folder)
    if not found:
        return None
    with _damaged(folder):
        rows = found[part]
        targets = [[(int(place), int(token)) for place, token in row] for row in rows["targets"]]
        return ProbeRows(list(rows["rows"]), targets)


def load_prompts(folder: Path) -> list[prompts.Record]:
    """Return the prompts that a run kept (`prompts.of_plan`); runs of before kept none.

    Raises:
        IntegrityError: the file is damaged.
    """
    with _damaged(folder):
        return list(_read(folder).get("prompts", ()))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    with _damaged(folder):
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


@contextlib.contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{folder / FILE} is damaged",
            f"{type(error).__name__}: it does not hold the rows of a run",
            "delete it: the export then compares on random rows",
        ) from error


def random_rows(
    tokenizer: Any, *, added: bool, start_id: int | None = None, tasks: bool = False
) -> ProbeRows:
    """Return rows of random ordinary tokens, equal for equal tokenizers, and positions in them.

    Args:
        tokenizer: its special tokens are left out.
        added: whether the model has a head for classes or scores: one position per row.
        start_id: what an encoder-decoder's answer starts with; None: not such a model.
        tasks: whether the model needs to know which data set a row is from.
    """
    draw = random.Random(_SEED)
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    rows = []
    for _ in range(RANDOM_ROWS):
        row = {"input_ids": draw.choices(ordinary, k=RANDOM_TOKENS)}
        if start_id is not None:
            row["decoder_input_ids"] = [start_id, *draw.choices(ordinary, k=RANDOM_TOKENS - 1)]
        if tasks:
            row["task_ids"] = [0]
        rows.append(row)
    places = (0,) if added else _PLACES
    return ProbeRows(rows, [[(place, NO_TARGET) for place in places] for _ in rows])


def of_plan_random(plan: Plan) -> ProbeRows:
    """Return random rows for the model of a plan."""
    return random_rows(
        plan.tokenizer,
        added=plan.head.added,
        start_id=plan.collate.start_id if plan.head.name == "sequence" else None,
        tasks=plan.collate.tasks,
    )


def at(held: ProbeRows, logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return logits (positions, entries) at the held positions, from the logits of every row."""
    found = []
    for tensor, targets in zip(logits, held.targets, strict=True):
        rows = tensor[None] if tensor.ndim == 1 else tensor
        found.append(rows[[place for place, _ in targets]])
    return torch.cat(found)


def witness(held: ProbeRows, tuned: torch.Tensor, found: torch.Tensor) -> dict[str, Any]:
    """Return what an artefact's manifest keeps of its logits: the top entries at every position.

    Args:
        held: the random rows.
        tuned: logits (positions, entries) of the tuned model.
        found: of the artefact, when it was written.
    """
    ids = tuned.topk(min(ENTRIES, tuned.shape[-1]), dim=-1).indices
    return {
        "rows": held.rows,
        "targets": held.targets,
        "entries": ids.tolist(),
        "tuned": tuned.gather(-1, ids).tolist(),
        "artefact": found.gather(-1, ids).tolist(),
    }
