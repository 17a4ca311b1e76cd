"""Data templates: how a row becomes the turns of a chat, or a raw text with supervised parts.

A template is one YAML file, checked by the schema below. Its Jinja sees a row's values by column
name and nothing else; it runs in a sandbox, and a value is never template source.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from tuner.data import bundled_chats
from tuner.data.fields.language import Language
from tuner.data.reading import find
from tuner.data.templates.jinja import variables as variables
from tuner.data.templates.template_columns import Columns
from tuner.errors import DataError, RecipeError
from tuner.recipe import bundled
from tuner.recipe.other_tools import answer as other_tools
from tuner.schema import strict_yaml
from tuner.schema.fields import Flag, FreeMapping, Section, Text, Words

AUTO = "auto"
# Columns that hold a document where a template does not say which, the first one cut first.
DOCUMENTS = ("document", "passage", "context", "text", "input")
SLOT_TEXT, SLOT_LABEL = "[X]", "[Z]"


class Turn(Section):
    """One turn of the chat; one that renders empty is left out."""

    role: Annotated[
        Literal["system", "user", "assistant", "tool", "history"],
        Field(description="who speaks; history: earlier pairs of a question and its answer"),
    ]
    content: Annotated[Text | None, Field(description="Jinja over the columns")] = None
    column: Annotated[Text | None, Field(description="history: the column with the pairs")] = None
    calls: Annotated[
        Text | None, Field(description="assistant: the column with the calls of tools, as JSON")
    ] = None

    def columns(self) -> set[str]:
        """Return the columns that it reads."""
        named = {name for name in (self.column, self.calls) if name}
        return named | variables(self.content or "")


class Conversation(Section):
    """A column that holds a list of turns."""

    column: Annotated[Text, Field(description="the column with the list of turns")]
    role: Annotated[Text, Field(description="key of the speaker in a turn")] = "role"
    content: Annotated[Text, Field(description="key of the text in a turn")] = "content"
    roles: Annotated[
        dict[str, Text],
        Field(description="each role in the file: system, user, assistant, tool or call"),
    ]
    system: Annotated[Text | None, Field(description="column with a system text")] = None
    tools: Annotated[Text | None, Field(description="column with the tools")] = None


class Cloze(Section):
    """A sentence with a slot, and a word to put there for each label."""

    pattern: Annotated[Text, Field(description="[X] is the row's text, [Z] the label's word")]
    text: Annotated[Text, Field(description="column of [X]")] = "text"
    label: Annotated[Text, Field(description="column of the label")] = "label"
    verbalizer: Annotated[dict[str, Text], Field(min_length=2, description="label: word")]


class Choice(Section):
    """Options to choose from: the template reads them as {letter: text}, the answer as a letter."""

    options: Annotated[Text, Field(description="column of the options: a list, a mapping, a text")]
    each: Annotated[Words, Field(description="columns with one option each, in their place")] = ()
    answer: Annotated[Text, Field(description="column of the right one: letter, number or text")]
    several: Annotated[bool, Field(description="several of them may be right")] = False

    def complete(self, columns: Collection[str]) -> bool:
        """Return whether these columns of the template hold options."""
        return self.options in columns or sum(name in columns for name in self.each) > 1


class Sample(Section):
    """A row and what it must become: the test of the template."""

    row: Annotated[FreeMapping, Field(description="the row")]
    turns: Annotated[list[FreeMapping] | None, Field(description="expected turns")] = None
    segments: Annotated[list[FreeMapping] | None, Field(description="expected segments")] = None


class Template(Section):
    """A data template, with exactly one of `turns`, `conversation`, `text` and `cloze`."""

    name: Annotated[Text, Field(description="its name, the same as its file's")]
    description: Annotated[Text, Field(description="what rows it is for, one line")]
    columns: Annotated[Columns, Field(description="the columns it reads")]
    task: Annotated[
        Text | None, Field(description="what the plan calls it: multiple choice; default: its name")
    ] = None
    language: Annotated[
        Language | None,
        Field(description="language of the rows it is chosen for; by default any"),
    ] = None
    turns: Annotated[tuple[Turn, ...], Field(description="the turns of the chat")] = ()
    conversation: Annotated[Conversation | None, Field(description="a list of turns")] = None
    text: Annotated[Text | None, Field(description="Jinja; raw text, all supervised")] = None
    cloze: Annotated[Cloze | None, Field(description="a sentence with a slot")] = None
    choice: Annotated[Choice | None, Field(description="turns: options to choose from")] = None
    tools: Annotated[Text | None, Field(description="turns: column with the tools")] = None
    booleans: Annotated[
        tuple[Text, Text] | None,
        Field(description="words for true and false; the label is read as one of them"),
    ] = None
    labels: Annotated[Words, Field(description="answers to choose from")] = ()
    label: Annotated[
        Text | None,
        Field(description="column of the label that is the answer; true, false and 3 become text"),
    ] = None
    document: Annotated[
        Words,
        Field(
            description="columns that lose their end where a row is too long; default: those "
            f"named {', '.join(DOCUMENTS)}"
        ),
    ] = ()
    separator: Annotated[str, Field(description="text between turns when rendered raw")] = "\n\n"
    by_columns: Annotated[Flag, Field(description="may be chosen by the columns alone")] = True
    samples: Annotated[tuple[Sample, ...], Field(description="rows and their rendering")] = ()

    @property
    def documents(self) -> tuple[str, ...]:
        """The columns that lose their end where a row is too long."""
        found = self.document or [name for name in DOCUMENTS if name in self.columns.names]
        return () if self.text is not None else tuple(found)

    @property
    def raw(self) -> bool:
        """Whether it makes plain text, never a chat."""
        return self.text is not None or self.cloze is not None

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The columns that only the last answer reads."""
        if self.cloze:
            return (self.cloze.label,)
        if not self.turns or self.turns[-1].role != "assistant":
            return ()
        *before, last = [turn.columns() for turn in self.turns]
        return tuple(name for name in self.columns.names if name in last.difference(*before))

    @property
    def needed(self) -> tuple[str, ...]:
        """The required columns, and those that may hold the options."""
        choice = self.choice
        options = (choice.options, *choice.each) if choice else ()
        return self.columns.required + options

    def complete(self, columns: Collection[str]) -> bool:
        """Return whether rows with these columns of the template have all that it needs."""
        choice = self.choice
        return {*self.columns.required} <= {*columns} and (not choice or choice.complete(columns))

    @model_validator(mode="after")
    def _consistent(self) -> Template:
        kinds = [bool(self.turns), self.conversation is not None, self.text is not None]
        if sum([*kinds, self.cloze is not None]) != 1:
            raise ValueError("give exactly one of turns, conversation, text and cloze")
        known = {*self.columns.names}
        for names in self.columns.aliases:
            if unknown := set(names) - known:
                raise ValueError(f"aliases name unknown columns: {sorted(unknown)}")
        if unknown := self._columns_used() - known:
            raise ValueError(f"reads columns that `columns` does not list: {sorted(unknown)}")
        if not self.turns and (self.choice or self.tools):
            raise ValueError("choice and tools go with turns only")
        if self.turns and not any(turn.role == "assistant" for turn in self.turns):
            raise ValueError("no turn has the role assistant, so nothing would be learned")
        if self.cloze and any(
            self.cloze.pattern.count(slot) != 1 for slot in (SLOT_TEXT, SLOT_LABEL)
        ):
            raise ValueError(f"cloze.pattern must hold {SLOT_TEXT} and {SLOT_LABEL} once each")
        return self

    def _columns_used(self) -> set[str]:
        used = {*variables(self.text or "")}.union(*(turn.columns() for turn in self.turns))
        if self.conversation:
            conversation = self.conversation
            columns = (conversation.column, conversation.system, conversation.tools)
            used |= {name for name in columns if name}
        if self.cloze:
            used |= {self.cloze.text, self.cloze.label}
        if self.choice:
            used |= {self.choice.options, *self.choice.each, self.choice.answer}
        return used | {name for name in (self.label, self.tools, *self.document) if name}


def load_template(name_or_path: str, folder: Path) -> Template:
    """Load a bundled template by name, or any template by its file.

    Raises:
        RecipeError: no template has this name.
        DataError: the file does not exist or is not a template.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        return _load(find.find(name_or_path, folder, "data.template"))
    files = bundled.files("data_templates")
    if name_or_path not in files:
        near = get_close_matches(name_or_path, files)
        fix = f"did you mean {near[0]}?" if near else "use one of them, or the path of a .yaml file"
        # Other tools call both kinds of template so.
        if name_or_path in bundled_chats.names():
            fix = (
                "leave out data.template; to have chats rendered so, set "
                f"model.chat_template: {name_or_path}"
            )
        fix = other_tools.instead("data.template", name_or_path) or fix
        raise RecipeError(
            f"data.template: there is no template '{name_or_path}'",
            f"templates: {', '.join(files)}",
            fix,
        )
    return _bundled(files[name_or_path])


def all_templates() -> list[Template]:
    """Return every bundled template, in order of the names."""
    return [_bundled(path) for path in bundled.files("data_templates").values()]


@cache
def _bundled(path: Path) -> Template:
    return _load(path, quick=True)


def _load(path: Path, quick: bool = False) -> Template:
    try:
        document, lines = strict_yaml.parse(path.read_text("utf-8"), quick)
        return Template.model_validate(document)
    except strict_yaml.YamlProblem as error:
        problems = [f"line {error.line}, column {error.column}: {error.message}"]
    except UnicodeDecodeError:
        problems = ["not UTF-8"]
    except ValidationError as error:
        problems = [_problem(dict(item), lines) for item in error.errors()]
    raise DataError(
        f"{path} is not a data template",
        fix="compare it with `tuner templates show instruction`",
        problems=problems,
    )


def _problem(error: dict[str, Any], lines: dict[strict_yaml.Path, int]) -> str:
    where = tuple(error["loc"])
    line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), 1)
    key = ".".join(map(str, where))
    return f"line {line}: {key}: {error['msg']}" if key else f"line {line}: {error['msg']}"
