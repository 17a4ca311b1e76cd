"""Data templates: how a row becomes the turns of a chat, or a raw text with supervised parts.

A template is one YAML file, checked by the schema below. Its Jinja sees a row's values by column
name and nothing else; it runs in a sandbox, and a value is never template source.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, ValidationError, model_validator

from tuner.data import read
from tuner.errors import DataError, RecipeError
from tuner.recipe import bundled
from tuner.schema import strict_yaml
from tuner.schema.fields import Flag, FreeMapping, Section, Text, Words

AUTO = "auto"
# Other tools call both kinds of template so.
_CHAT_TEMPLATES = Path(__file__).parent / "chat_templates"
SLOT_TEXT, SLOT_LABEL = "[X]", "[Z]"


class Columns(Section):
    """The columns a template reads."""

    required: Annotated[Words, Field(min_length=1, description="columns every row must have")]
    optional: Annotated[Words, Field(description="columns used if a row has them")] = ()
    aliases: Annotated[
        tuple[dict[str, Text], ...], Field(description="other names for the columns")
    ] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.required + self.optional


class Turn(Section):
    """One turn of the chat; one that renders empty is left out."""

    role: Annotated[
        Literal["system", "user", "assistant", "tool", "history"],
        Field(description="who speaks; history: earlier pairs of a question and its answer"),
    ]
    content: Annotated[Text | None, Field(description="Jinja over the columns")] = None
    column: Annotated[Text | None, Field(description="history: the column with the pairs")] = None


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
    turns: Annotated[tuple[Turn, ...], Field(description="the turns of the chat")] = ()
    conversation: Annotated[Conversation | None, Field(description="a list of turns")] = None
    text: Annotated[Text | None, Field(description="Jinja; raw text, all supervised")] = None
    cloze: Annotated[Cloze | None, Field(description="a sentence with a slot")] = None
    labels: Annotated[Words, Field(description="answers to choose from")] = ()
    label: Annotated[
        Text | None,
        Field(description="column of the label that is the answer; true, false and 3 become text"),
    ] = None
    separator: Annotated[str, Field(description="text between turns when rendered raw")] = "\n\n"
    by_columns: Annotated[Flag, Field(description="may be chosen by the columns alone")] = True
    samples: Annotated[tuple[Sample, ...], Field(description="rows and their rendering")] = ()

    @property
    def raw(self) -> bool:
        """Whether it makes plain text, never a chat."""
        return self.text is not None or self.cloze is not None

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
        if self.turns and not any(turn.role == "assistant" for turn in self.turns):
            raise ValueError("no turn has the role assistant, so nothing would be learned")
        if self.cloze and any(
            self.cloze.pattern.count(slot) != 1 for slot in (SLOT_TEXT, SLOT_LABEL)
        ):
            raise ValueError(f"cloze.pattern must hold {SLOT_TEXT} and {SLOT_LABEL} once each")
        return self

    def _columns_used(self) -> set[str]:
        used = {turn.column for turn in self.turns if turn.column}
        for source in [self.text, *(turn.content for turn in self.turns)]:
            used |= variables(source or "")
        if self.conversation:
            conversation = self.conversation
            columns = (conversation.column, conversation.system, conversation.tools)
            used |= {name for name in columns if name}
        if self.cloze:
            used |= {self.cloze.text, self.cloze.label}
        if self.label:
            used.add(self.label)
        return used


def environment() -> jinja2.Environment:
    """Return the sandbox in which every data template runs."""
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
    )


def variables(source: str) -> set[str]:
    """Return the columns that a text of a template reads.

    Raises:
        ValueError: it is not valid Jinja.
    """
    try:
        return jinja2.meta.find_undeclared_variables(environment().parse(source))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"not valid Jinja: {error.message} in {source!r}") from None


def load_template(name_or_path: str, folder: Path) -> Template:
    """Load a bundled template by name, or any template by its file.

    Raises:
        RecipeError: no template has this name.
        DataError: the file does not exist or is not a template.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        return _load(read.find(name_or_path, folder, "data.template"))
    files = bundled.files("data_templates")
    if name_or_path not in files:
        near = get_close_matches(name_or_path, files)
        fix = f"did you mean {near[0]}?" if near else "use one of them, or the path of a .yaml file"
        if (_CHAT_TEMPLATES / f"{name_or_path}.jinja").is_file():
            fix = (
                "leave out data.template; to have chats rendered so, set "
                f"model.chat_template: {name_or_path}"
            )
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
    """Read a bundled template once: parsing all of them takes longer than the rest of a plan."""
    return _load(path)


def _load(path: Path) -> Template:
    try:
        document, lines = strict_yaml.parse(path.read_text("utf-8"))
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
