"""Show the result of a rehearsal: the parts, the memory, and estimates for the whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuner.console import formatting
from tuner.plan import costs, rates

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.plan.plan import Plan
    from tuner.run.rehearsal import Rehearsal


def show(plan: Plan, found: Rehearsal, console: Console) -> None:
    """Show the table of a rehearsal, and one JSON object."""
    rows, amount = parts(plan, found), costs.cost(plan, found.times.total)
    console.event(
        "rehearsal",
        parts=[
            {"part": name, "seconds": here, "in_run_seconds": there} for name, here, there in rows
        ],
        steps_seconds=found.steps,
        tokens_per_second=found.rate.tokens_per_second,
        seconds_per_step=found.rate.step,
        peak_memory_bytes=found.peak_memory,
        planned_memory_bytes=found.planned_memory,
        memory_ratio=found.peak_memory / found.planned_memory,
        largest_difference=found.difference,
        run=found.times.as_dict(),
        cost=amount,
        measured=found.rate.date,
    )
    console.text()
    console.table(
        ("part", "seconds", "in the run"),
        [
            (name, f"{here:.2f}", formatting.about(there) if there is not None else "-")
            for name, here, there in rows
        ],
    )
    for name, items in _lines(plan, found).items():
        console.text(formatting.paragraph(name, items))
    if asked := plan.recipe.eval.gate:
        console.text(formatting.paragraph("gates", [f"{'; '.join(asked)}: judged after a run"]))
    price = "" if amount is None else f" and cost about {formatting.money(amount)}"
    console.closing(
        f"rehearsed: the run will take about {formatting.about(found.times.total)}{price}"
    )


def parts(plan: Plan, found: Rehearsal) -> list[tuple[str, float, float | None]]:
    """Return each part, its time here, and its time in the run; None if a run does not have it."""
    laps, run = found.seconds, found.times
    times, more = costs.scorings(plan), costs.evaluated(plan)
    first, *others = found.steps
    rows: list[tuple[str, float, float | None]] = [("load", laps["load"], run.load)]
    if found.rows:
        held_out, scored = rates.scored_rows(plan), (times + more) * found.rate.score_row
        name = f"score {found.rows} of {held_out} rows ({_often(times + more)} in the run)"
        rows.append((name, laps["score"], held_out * scored))
    name = f"sample answers ({_often(times)} in the run)"
    rows.append((name, laps["samples"], times * laps["samples"]))
    rows.append(("step 1, the longest rows", first, None))
    rows += [(f"step {number}", seconds, None) for number, seconds in enumerate(others, 2)]
    rows.append((f"training, {plan.steps:,} steps in the run", sum(found.steps), run.training))
    rows.append((f"save ({_often(rates.saves(plan))} in the run)", laps["save"], run.saving))
    if found.difference is not None:
        rows.append(("reload", laps["reload"], None))
        rows.append((f"step {len(found.steps)} from its checkpoint", laps["resume"], None))
    rate = found.rate
    rows.append((f"export {', '.join(plan.live_formats)}", rate.export, rate.export))
    if rate.made:
        shared = rate.made[rates.SHARED]
        rows.append(("measure the tuned model for the other formats", shared, shared))
    rows += [(f"export {name}", rate.made[name], rate.made[name]) for name in plan.made_formats]
    return rows


def _often(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _lines(plan: Plan, found: Rehearsal) -> dict[str, list[str]]:
    rate: Any = found.rate
    memory = f"{formatting.size(found.peak_memory)} peak until the last step, "
    memory += f"{formatting.size(found.planned_memory)} planned: "
    ratio = found.peak_memory / found.planned_memory
    speed = [f"{rate.tokens_per_second:,.0f} tokens per second;", f"{rate.step:.3g} s per step"]
    lines = {"speed": speed, "memory": [f"{memory}{ratio:.2f} times the plan"]}
    if found.difference is not None:
        apart = "bit for bit" if not found.difference else f"within {found.difference:.1e}"
        lines["resume"] = [f"step {len(found.steps)} resumed from its checkpoint matches "]
        lines["resume"][0] += apart
    return lines
