"""A row as the text that is tokenized, with what is known about its characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuner.data.rows.dialogue import Dialogue
from tuner.data.templates.template import Template
from tuner.data.turns import reasoning, turn_keys
from tuner.data.turns.reasoning import KEY
from tuner.errors import RecipeError

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """Text and character spans of one example.

    Args:
        dialogue: the row it was made from.
        text: what is tokenized.
        supervised: spans of the answers whose tokens are targets of the loss.
        further: spans of other turns whose tokens are targets, too.
        fractions: spans whose tokens weigh less than 1 in the loss, with what they weigh.
        structure: spans that the chat template wrote; special tokens count only there.
        unlocated: texts of the row whose place in `text` is not known.
        pattern: for texts with unlocated contents, the same chat with neutral contents.
        raw: plain text, which gets the tokenizer's own BOS.
        append_eos: the text does not end in a stop token by itself.
        supervise_eos: the appended stop token is a target.
        prompt_end: where the last answer starts, or the last turn if another one is learned.
        reference: that answer or turn as text.
        after: what the template writes after the last answer, and the model does not learn.
    """

    dialogue: Dialogue
    text: str
    supervised: tuple[Span, ...]
    further: tuple[Span, ...] = ()
    fractions: tuple[tuple[Span, float], ...] = ()
    structure: tuple[Span, ...] = ()
    unlocated: tuple[str, ...] = ()
    pattern: str | None = None
    raw: bool = False
    append_eos: bool = False
    supervise_eos: bool = True
    prompt_end: int = 0
    reference: str = ""
    after: str = ""


def raw(
    dialogue: Dialogue, separator: str, only_last: bool = False, context: bool = False
) -> Rendered:
    """Render without a chat template: segments as they are, turns joined by `separator`; reasoning
    is no target if it is `context`."""
    text = ""
    spans: list[tuple[Span, float, bool]] = []
    for part, weight, answer in _parts(dialogue, separator, context):
        if weight:
            spans.append(((len(text), len(text) + len(part)), weight, answer))
        text += part
    if only_last:
        spans = spans[-1:]
    cloze = bool(dialogue.words)
    (start, end), _, _ = spans[-1]
    return Rendered(
        dialogue,
        text,
        tuple(span for span, _, answer in spans if answer),
        further=tuple(span for span, _, answer in spans if not answer),
        fractions=tuple((span, weight) for span, weight, _ in spans if weight < 1),
        raw=True,
        append_eos=True,
        supervise_eos=not cloze,
        prompt_end=start,
        reference=text[start:end],
    )


def _parts(dialogue: Dialogue, separator: str, context: bool) -> list[tuple[str, float, bool]]:
    """Texts, what each weighs in the loss, and whether it is an answer."""
    if dialogue.segments:
        return [(segment.text, float(segment.supervised), True) for segment in dialogue.segments]
    parts: list[tuple[str, float, bool]] = []
    for message in dialogue.messages:
        if parts and separator:
            parts.append((separator, 0.0, False))
        said = reasoning.block(message[KEY]) if message.get(KEY) else ""
        if said and context:
            parts.append((said, 0.0, False))
            said = ""
        text = said + str(message.get("content") or "")
        parts.append((text, turn_keys.weight(message), message["role"] == "assistant"))
    return parts


def separator_of(templates: Sequence[Template], head: str) -> str:
    """Return the text between the turns of plain prompts.

    Raises:
        RecipeError: the templates do not agree on it.
    """
    # A classifier reads only the labelled text, up to its last character.
    found = {
        "" if head == "classes" and template.label else template.separator: template.name
        for template in templates
    }
    if len(found) > 1:
        raise RecipeError(
            f"the data templates {' and '.join(found.values())} put different texts between turns",
            "plain prompts of both kinds could not be sent in one way when the model is used",
            "leave out data.render: raw, or name one template for all sources"
            if head == "language"
            else "name one template for all sources",
        )
    return next(iter(found), "")


def prompt_text(rendered: Rendered) -> str:
    """Return the prompt as shown to readers: the last question, or all of a plain text."""
    dialogue = rendered.dialogue
    if dialogue.segments:
        return rendered.text[: rendered.prompt_end].rstrip()
    asked = [m["content"] for m in dialogue.messages[:-1] if m["role"] != "assistant"]
    return str(asked[-1]) if asked else rendered.text[: rendered.prompt_end]


def prompt_of(rendered: Rendered) -> Rendered:
    """Return the text before the last answer alone."""
    return part(rendered, 0, rendered.prompt_end, append_eos=False)


def answer_of(rendered: Rendered) -> Rendered:
    """Return the last answer alone, with what the template writes after it."""
    end = len(rendered.text)
    return replace(part(rendered, rendered.prompt_end, end, rendered.append_eos), raw=False)


def part(rendered: Rendered, start: int, end: int, append_eos: bool) -> Rendered:
    """Return a part of a text that was found safe as a whole."""
    return replace(
        rendered,
        text=rendered.text[start:end],
        supervised=_clipped(rendered.supervised, start, end),
        structure=_clipped(rendered.structure, start, end),
        unlocated=(),
        pattern=None,
        append_eos=append_eos,
        prompt_end=0,
    )


def _clipped(spans: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    return tuple(
        (max(first, start) - start, min(last, end) - start)
        for first, last in spans
        if first < end and last > start
    )
