"""Answers to one prompt as token ids, each as the model itself would continue the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.rows.dialogue import Dialogue
from tuner.data.rows.rendered import Rendered, answer_of, prompt_of
from tuner.data.tokens.encode import Encoded
from tuner.data.tokens.example_maker import ExampleMaker
from tuner.data.turns import turn_keys


@dataclass(frozen=True)
class PromptAndAnswers:
    """A prompt with its answers: dialogues that differ in their last turn only."""

    dialogues: tuple[Dialogue, ...]

    @property
    def row(self) -> str:
        """The row that it comes from; the first, if there are several."""
        return self.dialogues[0].row

    @property
    def mark(self) -> str:
        """Fingerprint of the prompt."""
        return self.dialogues[0].mark

    @property
    def prompts(self) -> tuple[str, ...]:
        """Fingerprint of the prompt, ignoring all white space: only its last turn is answered."""
        return self.dialogues[0].prompts[:1]


@dataclass(frozen=True)
class Answers:
    """Token ids of the answers to one prompt.

    Args:
        prompt_ids: what each of `wholes` starts with.
        wholes: prompt and answer, up to the answer's stop token.
        foreign: special tokens in the rows' text.
    """

    prompt_ids: list[int]
    wholes: tuple[list[int], ...]
    foreign: int


class AnswerEncoder:
    """Encodes prompts with their answers.

    Args:
        tokenizer: a fast one.
        maker: renders the dialogues.
        sampled: prompts are those that the chat template writes by itself, as they are when
            answers are sampled; false: those that ask for the row's answers.
    """

    def __init__(self, tokenizer: Any, maker: ExampleMaker, sampled: bool = False) -> None:
        self._maker, self._encoder, self._sampled = maker, maker.encoder, sampled
        self._backend = tokenizer.backend_tokenizer

    def encode(self, items: Sequence[PromptAndAnswers]) -> Iterator[Answers | BadRow]:
        """Encode the dialogues of each item; one that cannot be yields its problem instead."""
        rendered: list[list[Rendered] | BadRow] = []
        for item in items:
            try:
                arguments = {} if self._sampled else self._maker.asked(item.dialogues)
                texts = [self.render(dialogue, arguments) for dialogue in item.dialogues]
                rendered.append(_with_one_border(texts))
            except BadRow as problem:
                rendered.append(problem)
        flat = [each for group in rendered if not isinstance(group, BadRow) for each in group]
        encoded = iter(self._encoder.encode(flat, prompts=True))
        for group in rendered:
            if isinstance(group, BadRow):
                yield group
                continue
            results = list(islice(encoded, len(group)))
            try:
                yield self._answers(group, [_fit(result) for result in results])
            except BadRow as problem:
                yield problem

    def render(self, dialogue: Dialogue, arguments: Mapping[str, Any] | None = None) -> Rendered:
        """Render a dialogue of which only the last answer counts.

        Raises:
            BadRow: the chat template refuses it, or leaves its answer out.
        """
        turn_keys.refuse_fractions(dialogue.messages, "preferences and prompts learn answers whole")
        texts = self._maker.render(dialogue, True, arguments)
        if not texts:
            raise BadRow("the model's chat template leaves out the answer")
        return texts[-1]

    def _answers(self, group: Sequence[Rendered], encoded: Sequence[Encoded]) -> Answers:
        prompt = encoded[0].prompt_ids
        wholes = [_to_stop(each) for each in encoded]
        foreign = sum(each.foreign for each in encoded)
        if not all(each.prompt_ids == prompt for each in encoded) or not _begin(wholes, prompt):
            prompt, wholes = self._apart(group, wholes)
        if not _begin(wholes, prompt):
            raise AssertionError(
                f"{group[0].dialogue.row}: an answer does not begin with its prompt"
            )
        return Answers(prompt, tuple(wholes), foreign)

    def _apart(
        self, group: Sequence[Rendered], wholes: Sequence[list[int]]
    ) -> tuple[list[int], list[list[int]]]:
        """Encode prompt and answers separately, where a token spans the border between them.

        Raises:
            BadRow: the tokenizer encodes an answer differently without its prompt.
        """
        parts = [prompt_of(group[0]), *map(answer_of, group)]
        first, *rest = [_fit(result) for result in self._encoder.encode(parts)]
        apart = [first.ids + _to_stop(each) for each in rest]
        for one, other in zip(apart, wholes, strict=True):
            if self._decode(one) != self._decode(other):
                raise BadRow(
                    "prompt and answer share a token that cannot be split (end the prompt with a "
                    "space or a line break)"
                )
        return first.ids, apart

    def _decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))


def _fit(result: Encoded | BadRow) -> Encoded:
    if isinstance(result, BadRow):
        raise result
    return result


def _with_one_border(group: list[Rendered]) -> list[Rendered]:
    """The same texts with their prompts ending at the same place.

    A template may write more before one answer than before another (an empty block for missing
    reasoning): what is the same in all is the prompt, the rest belongs to the answer.
    """
    border = min(each.prompt_end for each in group)
    prompt = group[0].text[:border]
    if any(each.text[:border] != prompt for each in group):
        raise BadRow("the model's chat template renders the prompt differently for each answer")
    return [replace(each, prompt_end=border) for each in group]


def _to_stop(encoded: Encoded) -> list[int]:
    """The ids up to the last supervised one: what the template writes after it is not answer."""
    return encoded.ids[: len(encoded.ids) - encoded.supervised[::-1].index(True)]


def _begin(wholes: Sequence[list[int]], prompt: list[int]) -> bool:
    return all(len(ids) > len(prompt) and ids[: len(prompt)] == prompt for ids in wholes)
