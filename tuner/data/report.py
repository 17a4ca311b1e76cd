"""What became of every row: the numbers in `data_report.json` and their warnings."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from tuner.console.formatting import counted
from tuner.data.bad_rows import BadRows
from tuner.data.tokens.example import Example
from tuner.data.tokens.example_maker import ExampleMaker
from tuner.data.turns.tool_calls import UNFIT

LISTED = 10
# By key of the report. A format names the noun that a number is shown with.
WARNINGS = {
    "calls_of_unknown_tools": "calls of functions that the row's tools do not have: {names}",
    "calls_without_required_arguments": "calls without an argument that the row's tools require: "
    "{names}",
    "read_as": "read as seen in the file (keys of its source in data.train say otherwise): {names}",
    "files_not_read": "{names} (a folder's .txt and .md are its documents)",
    "rows_by_value": "{names}",
    "rows_of_items": "{names}",
    "truncated_rows": "{:row} truncated to {max_length} tokens: {supervised_tokens_cut_share:.1%} "
    "of supervised tokens are cut off (data.long, data.max_length)",
    "rows_cut_while_reading": "long texts cut while reading: {names}",
    "dropped_no_answer_left": "{:row} dropped: truncation left none of their answer",
    "eval_dropped_no_answer_left": "{:eval row} dropped: truncation left none of their answer",
    "left_out_too_long": "{:row} left out: longer than {max_length} tokens, and only their answers "
    "could be cut (data.cut)",
    "eval_left_out_too_long": "{:eval row} left out: longer than {max_length} tokens, and only "
    "their answers could be cut (data.cut)",
    "documents_cut": "{:row} without the end of their document, to fit into {max_length} tokens: "
    "the answers are whole (data.cut)",
    "rows_without_oldest_turns": "{:chat} without their oldest turns, to fit into {max_length} "
    "tokens: {supervised_tokens_cut_share:.1%} of supervised tokens are lost (data.cut)",
    "dropped_too_long": "{:row} left out: longer than {max_length} tokens, and rows are never cut",
    "eval_dropped_too_long": "{:eval row} left out: longer than {max_length} tokens",
    "split_rows": "{:long text} split into {split_pieces} pieces of at most {max_length} tokens",
    "thumbs_down_rows": "{:row} with a thumbs-down left out: disliked answers are not trained on",
    "skipped": "{:bad row} left out: {names}",
    "blank_rows": "{:blank text} left out",
    "rows_with_consecutive_turns": "{:row} with two turns of one speaker in a row",
    "rows_with_results_without_calls": "{:row} with the result of a tool after a turn that has no "
    "tool_calls: a call in its text is learned as text (it is read as a call where it ends the "
    "text, as JSON between <tool_call> and </tool_call>)",
    "rows_with_missing_results": "{:row} with fewer results than calls in a turn: {names}",
    "rows_with_empty_turns": "{:row} with an empty turn of the user or the system: {names}",
    "rows_with_other_reasoning": "{:row} with answers that begin with reasoning between tags such "
    "as <thinking>, which is learned as text (write <think> and </think>): {names}",
    "rows_with_calls_in_text": "{:row} with calls between <tool_call> and </tool_call> in "
    "their text: read as calls",
    "rows_with_bare_tools": '{:row} with tools as bare schemas: read as {{"type": "function", '
    '"function": SCHEMA}}, the form in which requests have them',
    "rows_with_calls_as_text": "{:row} with calls that the chat template cannot show: learned as "
    "the text that the row has (model.chat_template: qwen3 shows calls)",
    "rows_with_unread_calls": "{:row} with calls between <tool_call> and </tool_call> that are "
    "learned as text: the chat template has no such form, or no result follows them",
    "rows_with_moved_turns": "{:row} whose turns the chat template moves or repeats: see "
    "`tuner data preview`",
    "rows_with_unended_answers": "{:row} with answers before the last one that end without a stop "
    "token, as the chat template writes none there: only the last one teaches the model to stop",
    "unsure_option_numbers": "answers are numbers of options, and no row shows whether the first "
    "option is 0 or 1: taken as 0 ({names}); if it is 1, write letters or texts instead",
    "text_after_answers": "text that the chat template writes after answers, and that is not "
    "learned: {names}",
    "turns_learned_by_key": "{:turn} learned because a key of theirs says so (weight, train ...), "
    "against data.learn",
    "unanswered_rows": "{:row} ending in turns that no answer follows: these turns are left out",
    "unread_turn_keys": "keys of turns that nothing reads: {names}",
    "odd_labels": "{names}",
    "labels_without_rows": "labels that no training row has: {names}",
    "rows_with_other_answers": "{:row} with an answer that is none of the labels: learned as well",
    "ignored_columns": "columns not used: {names}",
    "unread_columns": "columns not used, though they look like part of the task: {names}",
    "eval_rows_also_in_train": "left out of the eval split because {also} in train: {:row}",
    "labels_not_held_out": "labels that no held-out row has: {names}",
    "rows_with_written_stops": "{:row} with the text of a stop token at the end of an answer: it "
    "is the end of the answer, and learned once (data.special_tokens_in_text)",
    "special_tokens_in_text": "special tokens in the rows' text, kept literal "
    "(data.special_tokens_in_text): {}",
    "tied_rows": "{:row} left out: a tie: of two answers, neither is the better one",
    "unrated_rows": "{:row} left out: no thumb says whether the answer is liked",
    "thumbs_alone": "{:thumb} to prompts without an opposite one: learned against a score of 0 "
    "(reward.unpaired)",
    "pairs_as_thumbs": "{:pair} read as two thumbs each: the better answer is liked, the worse one "
    "is not",
    "unpaired_rows": "{:row} left out: no better and worse answer to the same prompt make a pair",
    "identical_answers": "{:answer} given twice under the same prompt, or both liked and disliked",
    "contradicting_pairs": "{:pair} left out: another row has the same answers in the opposite "
    "order",
    "pairs_too_long": "{:pair} left out: one of the answers is longer than {max_length} tokens",
}


class _Count(int):
    def __format__(self, noun: str) -> str:
        return counted(int(self), noun) if noun else str(int(self))


# Of supervised rows: what a reader should not overlook, costliest first.
SUPERVISED = (
    *UNFIT,
    *("odd_labels", "read_as", "files_not_read", "rows_by_value", "rows_of_items"),
    *("left_out_too_long", "eval_left_out_too_long"),
    *("truncated_rows", "rows_with_other_answers"),
    *("rows_cut_while_reading", "dropped_no_answer_left", "rows_without_oldest_turns"),
    *("documents_cut",),
    *("eval_dropped_no_answer_left", "split_rows", "thumbs_down_rows", "skipped", "blank_rows"),
    *("rows_with_consecutive_turns", "rows_with_results_without_calls"),
    *("rows_with_empty_turns", "rows_with_other_reasoning"),
    *("rows_with_missing_results", "rows_with_bare_tools", "rows_with_calls_in_text"),
    *("rows_with_calls_as_text", "rows_with_unread_calls"),
    *("rows_with_moved_turns", "rows_with_unended_answers"),
    *("unsure_option_numbers", "text_after_answers", "turns_learned_by_key", "unanswered_rows"),
    *("unread_turn_keys", "unread_columns", "eval_rows_also_in_train", "labels_not_held_out"),
    *("labels_without_rows", "rows_with_written_stops", "special_tokens_in_text"),
)


def warnings_of(
    report: dict[str, Any], keys: Sequence[str], also: str = "their prompts are"
) -> list[str]:
    """Return what a reader of the report should not overlook.

    Args:
        report: of the rows; a preview's lacks the counts of the split.
        keys: those of `WARNINGS` that matter for the task, costliest first.
        also: what held-out rows share with the training rows.
    """
    texts = []
    for key in keys:
        if value := report.get(key):
            rows = value if isinstance(value, list) else []
            if isinstance(value, dict):
                rows = [f"'{name}' ({counted(count, 'turn')})" for name, count in value.items()]
            names = [row["row"] if isinstance(row, dict) else row for row in rows[:LISTED]]
            names += ["..."] if len(rows) > LISTED else []
            count = _Count(len(rows) or value)
            text = WARNINGS[key].format(count, **report, names=", ".join(names), also=also)
            texts.append(text)
    return texts


def losses(maker: ExampleMaker) -> dict[str, Any]:
    """Return what `max_length` took from the rows; keys without eval are about training rows."""
    train, held = maker.train, maker.eval
    return {
        "max_length": maker.max_length,
        "split_rows": len(train.pieces),
        "split_pieces": sum(train.pieces.values()),
        "eval_split_rows": len(held.pieces),
        "eval_split_pieces": sum(held.pieces.values()),
        "dropped_no_answer_left": len({*train.dropped}),
        "left_out_too_long": len(train.left_out),
        "documents_cut": len(train.documents),
        "rows_without_oldest_turns": len(train.turns),
        "truncated_rows": len(train.truncated),
        "eval_dropped_no_answer_left": len({*held.dropped}),
        "eval_left_out_too_long": len(held.left_out),
        "eval_documents_cut": len(held.documents),
        "eval_rows_without_oldest_turns": len(held.turns),
        "eval_truncated_rows": len(held.truncated),
        **token_facts(maker),
    }


def token_facts(maker: ExampleMaker) -> dict[str, Any]:
    """Return what is left of the supervised tokens, and the special tokens in the rows' text."""
    train = maker.train
    total = train.supervised_kept + train.supervised_cut
    return {
        "supervised_tokens": train.supervised_kept,
        "supervised_tokens_cut_share": round(train.supervised_cut / total, 6) if total else 0.0,
        "rows_with_written_stops": len(maker.stops.rows),
        "special_tokens_in_text": train.foreign + maker.eval.foreign,
    }


def chat_facts(maker: ExampleMaker) -> dict[str, Any]:
    """Return which chat template is used."""
    template = maker.chat_template
    return {
        "chat_template_origin": maker.chat_template_origin,
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        **({"chat_date": maker.chat_date} if maker.chat_date else {}),
    }


def skipped(bad: BadRows) -> list[dict[str, str]]:
    """Return the rows left out, each with the reason."""
    return [{"row": row, "reason": reason} for row, reason in bad.found]


def tokens_sha256(examples: Iterable[Example]) -> str:
    """Return the sha256 over ids, supervised flags and weights of all examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(array("q", [len(example.input_ids), *example.input_ids]).tobytes())
        digest.update(bytes(example.supervised))
        if example.target or example.label is not None or example.task:
            further = [example.task, -1 if example.label is None else example.label]
            digest.update(array("q", [*further, *example.target]).tobytes())
        if example.weights or example.goals:
            digest.update(array("d", (*example.weights, *example.goals)).tobytes())
    return digest.hexdigest()


def sequences_sha256(sequences: Iterable[Sequence[int]]) -> str:
    """Return the sha256 over sequences of whole numbers, in order."""
    digest = hashlib.sha256()
    for numbers in sequences:
        digest.update(array("q", [len(numbers), *numbers]).tobytes())
    return digest.hexdigest()
