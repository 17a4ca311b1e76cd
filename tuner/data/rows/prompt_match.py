"""Which template fits rows that have a prompt, and perhaps no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.template_match import Fit, choose
from tuner.data.rows.turns import blank
from tuner.data.templates.template import AUTO, Template, all_templates, load_template
from tuner.data.turns.turn_lists import messages_of
from tuner.errors import DataError
from tuner.recipe.schema import DataSection


@dataclass(frozen=True)
class PromptFit(Fit[Template]):
    """A template fitted to rows whose answer may be missing; `columns` has the answer's too.

    Args:
        answers: the data's names for the columns that only the answer reads.
        present: the columns of the data.
    """

    answers: tuple[str, ...] = ()
    present: frozenset[str] = frozenset()

    @property
    def used(self) -> frozenset[str]:
        """The data's columns that are read."""
        return super().used & self.present

    def completed(self, values: dict[str, Any], filler: str) -> tuple[dict[str, Any], str | None]:
        """Complete a row with `filler` where it has no answer.

        Returns:
            The values, and what is known of the row's own answer: None if it is whole.
        """
        conversation = self.template.conversation
        if conversation:
            column = self.columns[conversation.column]
            try:
                turns = messages_of(values.get(column), conversation, column)
            except BadRow:
                return values, None
            if turns and turns[-1]["role"] == "assistant":
                return values, None
            return {**values, column: [*turns, {"role": "assistant", "content": filler}]}, ""
        missing = [name for name in self.answers if blank(values.get(name))]
        if not missing:
            return values, None
        if cloze := self.template.cloze:
            filler = next(iter(cloze.verbalizer))
        if self.choices:
            filler = self.choices.first(values)
        known = [values[name] for name in self.answers if name not in missing]
        return {**values, **dict.fromkeys(missing, filler)}, str(known[-1]) if known else ""


def choose_prompts(
    data: DataSection,
    present: Sequence[str],
    folder: Path,
    accept: Callable[[Fit[Template]], bool] | None = None,
    evidence: Evidence | None = None,
) -> PromptFit:
    """Find the template of these columns, as sft does or, if none fits, with the answer left out.

    Args:
        data: `template` and `columns` are read.
        present: the columns.
        folder: where a template's file is looked up first.
        accept, evidence: as of `choose`.

    Raises:
        DataError: no template fits, or several do.
        RecipeError: `data.columns` names something that does not exist.
    """
    try:
        return prompt_fit(choose(data, present, folder, accept, evidence), present)
    except DataError as error:
        problem = error
    named = data.template != AUTO
    templates = [load_template(data.template, folder)] if named else all_templates()
    fits: dict[tuple[str, frozenset[tuple[str, str]]], tuple[int, PromptFit]] = {}
    for template in templates:
        for names in _answer_names(template, data, present):
            added = [name for name in names if name not in present]
            try:
                fit = prompt_fit(
                    choose(data, [*present, *added], folder, accept, evidence), present
                )
            except DataError:
                continue
            asked = frozenset(
                (name, file) for name, file in fit.columns.items() if file not in fit.answers
            )
            if (key := (fit.template.name, asked)) not in fits or len(added) < fits[key][0]:
                fits[key] = (len(added), fit)
    fewest = min((count for count, _ in fits.values()), default=0)
    best = [fit for count, fit in fits.values() if count == fewest]
    if len(best) != 1:
        raise problem
    return best[0]


def prompt_fit(fit: Fit[Template], present: Iterable[str]) -> PromptFit:
    """Return the fit of a template with what is known of its answer's columns."""
    names = fit.template.answer_columns
    answers = tuple(fit.columns[name] for name in names if name in fit.columns)
    own = {each.name: getattr(fit, each.name) for each in fields(Fit)}
    return PromptFit(**own, answers=answers, present=frozenset(present))


def _answer_names(
    template: Template, data: DataSection, present: Sequence[str]
) -> list[tuple[str, ...]]:
    """What the answer's columns may be called, where all that the prompt needs is there."""
    answers = template.answer_columns
    asked = [name for name in template.columns.required if name not in answers]
    aliases: list[dict[str, str]] = [{}, *template.columns.aliases]
    found = []
    for alias in aliases:
        names = {**{name: name for name in (*asked, *answers)}, **alias, **data.columns}
        if answers and all(names[name] in present for name in asked):
            found.append(tuple(names[name] for name in answers))
    return found
