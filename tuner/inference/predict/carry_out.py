"""Answer the rows of a file, in order, and write a line for each."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.bad_rows import BadRow
from tuner.data.classifier import Classifier
from tuner.data.prompts import Question
from tuner.data.templates.template import Template
from tuner.data.to_answer import FileRow, RowFile, asking, read, section
from tuner.data.tokens.answer_encoder import AnswerEncoder
from tuner.data.tokens.encode import closing
from tuner.data.tokens.example_maker import ExampleMaker
from tuner.data.tokens.prepared import Inputs
from tuner.data.turns import reasoning, turn_keys
from tuner.errors import RecipeError
from tuner.inference import chat_tools
from tuner.inference.engine import Inference
from tuner.inference.predict import write
from tuner.inference.predict.judge import DIGITS, PORTION, Scorer, labelled
from tuner.inference.predict.lines import Lines
from tuner.inference.predict.request import Request
from tuner.inference.predict.write import Prompt, Writing, Written
from tuner.inference.reading import whole
from tuner.record.disk import sha256_file
from tuner.schema.suggest import suggestion

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.machine.hardware import Machine

# The number of a row, and what its line says of the answer.
Answered = Iterator[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Work:
    """What is to be written.

    Attributes:
        kind: text, labels or scores.
        file: the rows; some may have problems.
        portions: items that are worked on together, in order, each with the number of its row.
        answer: answers a portion.
        prompts: of the rows as text, by their number.
    """

    kind: str
    file: RowFile
    portions: Iterable[Sequence[tuple[int, Any]]]
    answer: Callable[[Sequence[Any]], Answered]
    prompts: Mapping[int, str] = field(default_factory=dict)


def by_labels(asked: Request, model: Inference, classifier: Classifier) -> Work:
    """Return how rows are answered with labels.

    Raises:
        RecipeError: a template is named, or a column that the run does not read.
        DataError: the file cannot be read.
    """
    reads = ", ".join(classifier.columns)
    if asked.template is not None:
        raise RecipeError(
            "--template: this run answers with labels, and has a template of its own",
            f"it reads {reads}",
            "leave out --template, and name columns: --column NAME=COLUMN",
        )
    if odd := next((name for name in asked.columns if name not in classifier.columns), None):
        raise RecipeError(
            f"--column: this run reads no column '{odd}'", f"it reads {reads}", "use one of these"
        )
    columns = {**classifier.mapping, **asked.columns}
    file = read(section(asked.data, None, columns=columns), asked.folder, columns)
    file, inputs = file.each(lambda row: classifier.asked_by_row(row.values, columns))
    return Work("labels", file, _portions(inputs), lambda items: labelled(model, classifier, items))


def by_scores(asked: Request, scorer: Scorer) -> Work:
    """Return how the answers of rows are scored by a reward model.

    Raises:
        RecipeError, DataError: the file cannot be read, or no template fits its rows.
    """
    data = section(asked.data, asked.run, asked.template, asked.columns)
    file, inputs = scorer.read(asked, read(data, asked.folder, data.columns))
    return Work("scores", file, _portions(inputs), scorer.scored)


def by_text(
    asked: Request, model: Inference, arguments: Mapping[str, Any], present: Machine
) -> Work:
    """Return how rows are answered with text, each as `tuner chat` would answer its prompt.

    Args:
        asked: the request.
        model: the open base, with its active adapter.
        arguments: of the chat template.
        present: the machine.

    Raises:
        RecipeError, DataError: the file cannot be read, or no template fits its rows.
    """
    run = asked.run
    data = section(asked.data, run, asked.template, asked.columns)
    if asked.system:
        data = data.model_copy(update={"system": asked.system})
    file = read(data, asked.folder, asked.columns)
    template, question = asking(file, asked.folder)
    prompts = PromptMaker(model, file, asked.folder, template, arguments)
    file, made = file.each(lambda row: prompts.ids(question(row)))
    writing = Writing(asked.max_new_tokens, asked.sampling, asked.seed)
    wanted = [
        Prompt(ids, number, sample)
        for number, ids in enumerate(made)
        if ids is not None
        for sample in range(asked.samples)
    ]
    portions = (
        [(prompt.row, prompt) for prompt in portion]
        for portion in write.batches(model, wanted, asked.max_new_tokens, present, asked.batch)
    )
    waiting: dict[int, list[dict[str, Any]]] = defaultdict(list)

    def answer(items: Sequence[tuple[int, Prompt]]) -> Answered:
        batch = [prompt for _, prompt in items]
        for prompt, written in zip(batch, write.answers(model, batch, writing), strict=True):
            own = waiting[prompt.row]
            own.append(_said(model, prompt, written, asked.logprobs))
            if prompt.sample == asked.samples - 1:
                yield prompt.row, own[0] if asked.samples == 1 else {"samples": own}
                del waiting[prompt.row]

    return Work("text", file, portions, answer, prompts.texts if asked.prompt else {})


def carry_out(
    asked: Request, work: Work, about: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Write a line for each row, and return what was done.

    Args:
        asked: the request.
        work: what is written.
        about: what the answers depend on besides the rows.
        console: shows the progress.

    Raises:
        DataError: more rows have problems than may have.
        RecipeError: the output is there already, or was made in another way.
    """
    began = time.monotonic()
    work.file.refuse_problems(asked.max_bad_rows)
    _refuse_unknown(asked, work.file)
    rows = work.file.rows
    settings = {**about, "data_sha256": sha256_file(asked.data), "rows": len(rows)}
    with Lines(asked.output, settings, len(rows), asked.resume) as lines:
        at = begun = lines.done
        if begun:
            console.note(f"{begun:,} of {len(rows):,} rows are answered already")
        console.phase(f"answering {len(rows) - begun:,} rows")
        for portion in work.portions:
            if all(number < begun for number, _ in portion):
                continue
            for number, answer in work.answer(portion):
                if number < at:
                    continue
                for row in rows[at:number]:
                    lines.append(_line(asked, work, row, {"error": row.problem}))
                lines.append(_line(asked, work, rows[number], answer))
                at = number + 1
            console.tick(at, len(rows))
        for row in rows[at:]:
            lines.append(_line(asked, work, row, {"error": row.problem}))
    bad = sum(bool(row.problem) for row in rows)
    return {
        "output": str(asked.output),
        "kind": work.kind,
        "rows": len(rows),
        "answered": len(rows) - bad,
        "bad_rows": bad,
        "continued_after": begun,
        "seconds": round(time.monotonic() - began, 3),
    }


def _line(asked: Request, work: Work, row: FileRow, answer: Mapping[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"index": row.index, "line": row.line}
    if asked.keep:
        line["columns"] = {name: row.values.get(name) for name in asked.keep}
    if row.index in work.prompts:
        line["prompt"] = work.prompts[row.index]
    return {**line, **answer}


def _refuse_unknown(asked: Request, file: RowFile) -> None:
    known = file.source.columns
    if odd := next((name for name in asked.keep if name not in known), None):
        raise RecipeError(
            f"--keep: {file.source.name} has no column '{odd}'",
            f"found: {', '.join(known)}",
            suggestion(odd, known),
        )


def _portions(inputs: Sequence[Any]) -> Iterator[Sequence[tuple[int, Any]]]:
    found = [(number, each) for number, each in enumerate(inputs) if each is not None]
    for start in range(0, len(found), PORTION):
        yield found[start : start + PORTION]


def _said(model: Inference, prompt: Prompt, written: Written, logprobs: bool) -> dict[str, Any]:
    """What a line says of an answer, read as `tuner chat` reads it."""
    reader = chat_tools.reader(model, prompt.ids, ())
    read = whole(reader.feed(written.text, end=True))
    line: dict[str, Any] = {"answer": read.content}
    line |= {"reasoning": read.reasoning} if read.reasoning else {}
    line |= {"calls": read.calls} if read.calls else {}
    line |= {"tokens": len(written.ids), "stopped": written.stopped}
    if logprobs:
        tokenizer = model.active.tokenizer
        line["logprobs"] = [
            {"token": str(tokenizer.decode([token])), "logprob": round(value, DIGITS)}
            for token, value in zip(written.ids, written.logprobs, strict=True)
        ]
    return line


class PromptMaker:
    """Makes of rows the prompts that `tuner chat` would send.

    Args:
        model: what answers.
        file: the rows.
        folder: of the template's file.
        template: of the rows.
        arguments: of the chat template.

    Attributes:
        texts: the last prompts as text, by the number of their row.
    """

    def __init__(
        self,
        model: Inference,
        file: RowFile,
        folder: Path,
        template: Template,
        arguments: Mapping[str, Any],
    ) -> None:
        self._model, self._arguments = model, arguments
        self._tokenizer, data = model.active.tokenizer, file.source.data
        self._drop = data.reasoning == "drop"
        self._prompts = model.prompts_of(model.active)
        self.texts: dict[int, str] = {}
        self._numbers = {row.name: row.index for row in file.rows}
        self._plain: AnswerEncoder | None = None
        if template.raw:
            inputs = Inputs(data, self._tokenizer, folder, 0, model.active.room, model.stops)
            maker = ExampleMaker(inputs, [template], model.active.room)
            self._plain = AnswerEncoder(self._tokenizer, maker, True)
        self._closing = closing(self._tokenizer) if model.head.name == "sequence" else []

    def ids(self, question: Question) -> list[int]:
        """Return the tokens that are continued.

        Raises:
            BadRow: the chat template refuses the turns, or they leave no room for an answer.
        """
        (dialogue,) = question.dialogues
        if self._plain is not None:
            (found,) = self._plain.encode([question])
            if isinstance(found, BadRow):
                raise found
            ids = found.prompt_ids + self._closing
        else:
            turns = [turn_keys.shown(turn) for turn in dialogue.messages[:-1]]
            if self._drop:
                turns = [reasoning.without(turn) for turn in turns]
            ids = self._prompts.ids(turns, dialogue.tools, self._arguments)
        room = self._model.active.room
        if len(ids) >= room:
            raise BadRow(f"its prompt has {len(ids)} tokens; the context is {room} tokens")
        self.texts[self._numbers[dialogue.row]] = str(self._tokenizer.decode(ids))
        return ids
