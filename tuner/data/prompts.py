"""Data for learning from rewards: prompts that the policy answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.preferences import asked
from tuner.data.reading.read import Row
from tuner.data.recognise import recognise
from tuner.data.rows.check_row import check
from tuner.data.rows.dialogue import Dialogue, Message, RowRenderer, Segment
from tuner.data.rows.prompt_match import PromptFit, choose_prompts, prompt_fit
from tuner.data.rows.turns import blank
from tuner.data.sources.label_names import LabelNames
from tuner.data.sources.source import Source, SplitFiles
from tuner.data.sources.thumbs import is_down, thumb_columns
from tuner.data.tokens.answer_encoder import AnswerEncoder, Answers, PromptAndAnswers
from tuner.data.tokens.cut import Cutter, documents
from tuner.data.tokens.example_maker import ExampleMaker
from tuner.data.tokens.prepared import Inputs
from tuner.data.tokens.tally import Tally
from tuner.data.turns.turn_rules import TurnRules
from tuner.data.whole import WholePipeline
from tuner.errors import DataError, RecipeError

# Takes the answer's place while a prompt is rendered; it is in no prompt's ids.
PLACEHOLDER = "Answer"


@dataclass(frozen=True)
class Prompt:
    """A prompt for the policy to answer.

    Args:
        row: file name and line, for messages.
        input_ids: what generation starts from; a chat's ends with the header of the answer.
        text: the last user turn, or the whole of a plain text.
        reference: the row's own answer; empty if it has none.
        messages: the turns; none for plain text.
        task: which of the recipe's files it comes from.
    """

    row: str
    input_ids: list[int]
    text: str
    reference: str
    messages: tuple[Message, ...]
    task: int = 0

    @property
    def prompt_ids(self) -> list[int]:
        """The same as `input_ids`."""
        return self.input_ids

    @property
    def answers(self) -> tuple[list[int], ...]:
        """None: the policy samples its own."""
        return ()

    @property
    def numbers(self) -> list[Sequence[int]]:
        """All that is learned from."""
        return [[self.task], self.input_ids]

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads."""
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        """As `num_tokens`: what is learned is known only when it has been answered."""
        return len(self.input_ids)


@dataclass(frozen=True)
class Question(PromptAndAnswers):
    """A row: its prompt with a placeholder for an answer, and its own answer."""

    reference: str


class PromptData(WholePipeline[Question]):
    """Prepares `Prompt`s.

    Rows are those of sft; their answer may be missing, and is the reference where it is not. A
    prompt that leaves no room for a response loses its oldest turns, then the end of its document;
    one without these is left out. Prompts that occur in
    the training rows several times are kept and counted.

    Args:
        inputs: the rows, and what they are prepared with.
        response_length: tokens that a response may have.
        references: whether some row must have a reference.

    Raises:
        RecipeError: no prompt has room.
    """

    what = "prompts"
    stay = None
    no_room = "no held-out prompt fits into {} tokens"

    def __init__(self, inputs: Inputs, response_length: int, references: bool = False) -> None:
        super().__init__(inputs)
        self._response_length, self._references = response_length, references
        self._blank = 0
        self.max_length = min(self.max_length, inputs.context_length - response_length)
        if self.max_length < 1:
            raise RecipeError(
                f"responses of {response_length} tokens leave no room for a prompt",
                f"the model's context is {inputs.context_length} tokens",
                f"set rlhf.max_new_tokens: {inputs.context_length // 2} or less",
            )

    def _fit(self, source: Source) -> PromptFit:
        fit = recognise(source, self.inputs.folder, choose_prompts)
        return prompt_fit(fit, source.columns)

    def _items(self, files: SplitFiles) -> list[Question]:
        items = [each for source in files.sources if source.rows for each in self._of(source)]
        self._blank += items.count(None)
        return [each for each in items if each]

    def _of(self, source: Source) -> list[Question | None]:
        """The prompts of a source's rows; None for a raw text that is blank."""
        fit, thumbs = source.fit, thumb_columns(source.fit, source)
        labels = LabelNames(labels=frozenset(self.data.labels))
        rules = TurnRules(earlier=self.inputs.earlier_turns)
        renderer = RowRenderer(fit, labels, rules.of_source(source.data))
        assert isinstance(fit, PromptFit)

        def question(row: Row) -> Question | None:
            values, reference = fit.completed(row.values, PLACEHOLDER)
            found = [fit.value(row, name) for name in fit.template.documents]
            dialogue = renderer.render(replace(row, values=values))
            dialogue = replace(dialogue, documents=tuple(documents(found)))
            if reference is None:
                reference = dialogue.answer
            made = question_of(dialogue, "" if is_down(row, thumbs) else reference)
            if made:
                check(made.dialogues[0], results=not rules.earlier)
            return made

        return self.source.each(source.rows, question)

    def _cut(
        self, item: Question, answers: Answers, encoder: AnswerEncoder, tally: Tally
    ) -> tuple[Question, Answers]:
        kept = item, answers
        if len(answers.prompt_ids) <= self.max_length or self.data.cut == "drop":
            return kept
        cutter = PromptCutter(self.maker, tally, self.data.cut, self.max_length, encoder)
        return kept if self.data.long == "error" else cutter.fitted(kept) or kept

    def _example(self, item: Question, answers: Answers, tally: Tally) -> Prompt | None:
        (dialogue,), ids = item.dialogues, answers.prompt_ids
        tally.longest = max(tally.longest, len(ids))
        if len(ids) > self.max_length or dialogue.cut_characters:
            tally.supervised_cut += len(ids)
            return None
        tally.supervised_kept += len(ids)
        text = asked(dialogue.messages) or _plain(dialogue)
        turns = dialogue.messages[:-1]
        return Prompt(dialogue.row, ids, text, item.reference, turns, dialogue.source)

    def _room(self, longest: int) -> str:
        room = self.inputs.context_length
        if longest + self._response_length <= room:
            return f"set data.max_length: {longest} (the longest prompt)"
        return (
            f"shorten these prompts or leave them out, or allow fewer than {self._response_length} "
            f"new tokens: the model's context is {room} tokens"
        )

    def _counts(self, train: Sequence[Prompt], held: Sequence[Prompt]) -> dict[str, Any]:
        referenced = sum(bool(prompt.reference) for prompt in train)
        if self._references and not referenced:
            raise DataError(
                "the rule exact_answer needs reference answers",
                "no row of data.train has an answer next to its prompt",
                f"{self._where_answers_go()}; or remove the rule from rlhf.reward",
            )
        tokens = self._tokens(train)
        return {"rows_with_reference": referenced, **tokens, "blank_rows": self._blank}

    def _where_answers_go(self) -> str:
        """Which column of these rows would be read as the answer."""
        fit = self.fits[0]
        if not isinstance(fit, PromptFit) or not fit.answers:
            return "end the turns of each row with the assistant's answer"
        name = fit.answers[0]
        return f"add a column {name} with the answers, or map one: data.columns: {{{name}: NAME}}"


class PromptCutter(Cutter[tuple[Question, Answers]]):
    """Cuts prompts; see `Cutter`.

    Args:
        maker: see `Cutter`.
        tally: see `Cutter`.
        way: see `Cutter`.
        most: tokens of a prompt.
        encoder: encodes what is left.
    """

    def __init__(
        self, maker: ExampleMaker, tally: Tally, way: str, most: int, encoder: AnswerEncoder
    ) -> None:
        super().__init__(maker, tally, way)
        self._most, self._encoder = most, encoder

    def over(self, kept: tuple[Question, Answers]) -> int:
        """Return how many tokens too many a prompt has."""
        return len(kept[1].prompt_ids) - self._most

    def dialogue(self, kept: tuple[Question, Answers]) -> Dialogue:
        """Return the prompt with the placeholder of its answer."""
        return kept[0].dialogues[0]

    def again(
        self, kept: tuple[Question, Answers], dialogue: Dialogue
    ) -> tuple[Question, Answers] | None:
        """Return what is left of the prompt."""
        item = replace(kept[0], dialogues=(dialogue,))
        (answers,) = self._encoder.encode([item])
        return None if isinstance(answers, BadRow) else (item, answers)


def question_of(dialogue: Dialogue, reference: str) -> Question | None:
    """Return the prompt of a row's dialogue; None for a raw text that is blank."""
    if dialogue.plain:
        text = dialogue.answer
        if blank(text):
            return None
        segments = (Segment(text, False), Segment(PLACEHOLDER, True))
        dialogue, reference = replace(dialogue, segments=segments, answer=PLACEHOLDER), ""
    elif dialogue.segments:
        dialogue = dialogue.with_answer(next(iter(dialogue.words)))
    elif dialogue.messages:
        last = {"role": "assistant", "content": PLACEHOLDER}
        messages = (*dialogue.messages[:-1], last)
        dialogue = replace(dialogue, messages=messages, answer=PLACEHOLDER)
    return Question((dialogue,), reference)


def _plain(dialogue: Dialogue) -> str:
    """The text before the answer in a plain text."""
    before = []
    for segment in dialogue.segments:
        if segment.supervised:
            break
        before.append(segment.text)
    return "".join(before).rstrip()
