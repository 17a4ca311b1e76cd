"""The held-out rows of a run: scored before, while and after it trains."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tuner import evaluate
from tuner.errors import IntegrityError
from tuner.machine import heap, ranks
from tuner.methods.method import Hooks
from tuner.plan import evaluations
from tuner.plan import tested as test_rows
from tuner.record import checkpoint, manifest
from tuner.run.finish import gpu_memory
from tuner.tasks.trained import Trained, trainable
from tuner.tasks.watch import HeldOut, Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tuner.console.console import Console
    from tuner.plan.plan import Plan
    from tuner.record.checkpoint import Checkpoint
    from tuner.record.provenance import Clock
    from tuner.record.run_folder import RunFolder
    from tuner.tasks.leg import Reporter

# What the scores while training depend on, besides model and rows.
_OF_SCORES = ("eval.metrics", "eval.max_new_tokens")


def score(plan: Plan, trained: Trained, console: Console, when: str) -> dict[str, float]:
    """Return the scores of the model; none without rows."""
    rows = evaluate.rows(plan)
    if not plan.recipe.eval.enabled or not rows:
        return {}
    console.phase(f"scoring {len(rows)} held-out rows {when}")
    return _scores(plan, trained, console)


def tested(plan: Plan, trained: Trained, console: Console) -> dict[str, dict[str, float]]:
    """Return the scores of the test rows, which nothing else depends on; nothing without any."""
    if not plan.prepared.test:
        return {}
    return {"test": score(test_rows.plan_of(plan), trained, console, "of the test set")}


def _scores(plan: Plan, trained: Trained, console: Console) -> dict[str, float]:
    scores = evaluate.score(plan, trained.model, console.tick, trained.judge)
    # Blocks freed by scoring have other sizes than training needs.
    heap.give_back()
    return scores


def before(
    plan: Plan,
    trained: Trained,
    folder: RunFolder,
    console: Console,
    fingerprint: str,
    clock: Clock,
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return scores and answers before training, measured unless the record has them."""
    scores: dict[str, Any] = dict(folder.record.get("scores") or {})
    answers, scored = folder.record.get("samples"), _scoring(plan)
    # Earlier versions recorded no digest of the rows.
    known = {evaluate.ROWS: scored[evaluate.ROWS]} | (folder.record.get("scored") or {})
    if answers is None or known != scored:
        scores.clear()  # Those of earlier stages are of other rows, too.
        scores["before"] = score(plan, trained, console, "before training")
        answers = evaluate.samples(plan, trained.model)
        folder.update(
            scores=scores,
            samples=answers,
            scored=scored,
            base_fingerprint=fingerprint,
            durations=clock.laps,
            **gpu_memory(plan, clock),
        )
    return scores, answers


def _scoring(plan: Plan) -> dict[str, Any]:
    """Return what the scores depend on besides the model; they are compared only if it is equal."""
    values = {
        key: item.value
        for key, item in plan.values.items()
        if key.startswith("eval.") and key not in evaluations.WHEN
    }
    return {**json.loads(json.dumps(values)), evaluate.ROWS: evaluate.rows_sha256(plan)}


def while_training(
    plan: Plan, trained: Trained, console: Console, between: Callable[[int], None]
) -> HeldOut:
    """Return how the run scores its model while it trains.

    Args:
        plan: the plan.
        trained: the model.
        console: shows the progress.
        between: called with the number, from 1, of each finished stage except the last.
    """
    kept = (*_OF_SCORES, evaluate.ROWS)
    scored = {key: value for key, value in _scoring(plan).items() if key in kept}
    return HeldOut(
        between,
        lambda now: _scores(now, trained, console),
        scored,
        lambda now: _answers(now, trained),
    )


def _answers(plan: Plan, trained: Trained) -> list[dict[str, str]]:
    found = evaluate.samples(plan, trained.model)
    heap.give_back()
    return found


def watch(
    plan: Plan,
    held_out: HeldOut,
    folder: RunFolder,
    resumed: Checkpoint | None,
    reporter: Reporter,
) -> Watch:
    """Return the evaluations of a run, with what a checkpoint keeps of those so far."""
    saved = resumed.state.get("evaluation") if resumed else None
    found = Watch(plan.evaluations, held_out.score, saved, held_out.scored, held_out.answer)
    if found.outdated:
        reporter.warn("other held-out rows or metrics than before: evaluations start over")
    if found.keeps_best and found.best:
        intact = ranks.by_first(lambda: _intact(_place(folder, found.best)))
        if not intact:
            reporter.warn(
                f"the best weights, of step {found.best['step']}, are no longer in {folder.best}: "
                "the best of the evaluations to come is kept"
            )
            found.forget_best()
    return found


def _place(folder: RunFolder, evaluation: Any) -> Path:
    return folder.best / f"step-{evaluation['step']}"


def _intact(sealed: Path) -> bool:
    try:
        manifest.verify(sealed)
    except IntegrityError:
        return False
    return True


def put(plan: Plan, model: Any, saved: Checkpoint) -> None:
    """Give a model the weights of a checkpoint, and the method its state."""
    checkpoint.restore_tensors(saved, dict(trainable(model)))
    plan.method.hooks.restore(model, saved.state["method"])


def end_with_best(
    plan: Plan, model: Any, watched: Watch, folder: RunFolder, reporter: Reporter
) -> None:
    """Give the model the weights of the best evaluation, if the run keeps these.

    Raises:
        IntegrityError: their checkpoint is damaged.
    """
    if not watched.keeps_best:
        return
    if watched.best is None:
        reporter.warn("no evaluation is left to choose from: the last weights are kept")
        return
    if watched.last and watched.best["step"] < watched.last["step"]:
        put(plan, model, checkpoint.load(_place(folder, watched.best)))
        reporter.note(f"the weights after step {watched.best['step']}, the best ones, are kept")


def after(
    plan: Plan, trained: Trained, watched: Watch, console: Console
) -> dict[str, dict[str, float]]:
    """Return the scores after training: measured, unless the last evaluation has measured them;
    and those of the last step, if other weights are kept."""
    kept, last = watched.kept, watched.last
    # A method may still have changed its weights.
    same = type(plan.method.hooks).finish is Hooks.finish
    if kept is None or last is None or not same:
        return {"after": score(plan, trained, console, "after training")}
    found = {"after": kept["scores"]}
    return found if kept["step"] == last["step"] else {**found, "last": last["scores"]}
