"""Which columns that nothing reads look like part of the task, and which only keep books."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from tuner.data.columns.evidence import FEW, MOST, Evidence, kinds_of
from tuner.data.columns.thumb_words import are_thumbs
from tuner.schema.suggest import plain

# More numbers than these measure something.
MOST_CLASSES = 20
# Columns about a row, not of it: what it is called, where it is from, how it was made.
_BOOKKEEPING = frozenset(
    plain(name)
    for name in (
        *("id", "ids", "idx", "index", "uid", "uuid", "guid", "key", "no", "nr", "number", "row"),
        *("row id", "row number", "line", "line number", "sn", "serial", "hash", "sha", "md5"),
        *("sha1", "sha256", "checksum", "fingerprint", "canary", "seed", "fold"),
        *("url", "uri", "link", "links", "href", "website", "source", "sources", "src", "origin"),
        *("source url", "data source", "dataset", "dataset name", "corpus", "collection", "file"),
        *("file name", "filename", "path", "filepath", "document name", "doc name", "split"),
        *("subset", "partition", "set", "config", "part", "date", "time", "datetime", "timestamp"),
        *("created", "created at", "created time", "created on", "created date", "updated"),
        *("updated at", "year", "month", "day", "published", "lang", "language", "locale"),
        *("license", "licence", "copyright", "author", "authors", "annotator", "worker", "user"),
        *("annotators", "reviewer", "reviewers", "rater", "labeler", "labeller", "assignee"),
        *(
            "审核人",
            "标注人",
            "标注员",
            "审核员",
            "editor",
            "username",
            "user name",
            "model",
            "model name",
            "generator",
        ),
        *("engine", "model version", "version", "revision", "score type", "tokens", "length"),
        *("len", "lengths", "size", "count", "perplexity", "ppl", "type", "category"),
        *("categories", "subcategory", "sub category", "topic", "topics", "domain", "subject"),
        *("genre", "field", "area", "difficulty", "level", "grade", "quality", "tag", "tags"),
        *("keyword", "keywords", "task", "task name", "task type", "question type", "slice"),
        *("question concept", "name", "case id", "docket no.", "metadata", "meta", "info"),
        *("department", "dept", "科室", "部门"),
        *("annotator labels", "semeval set", "ref", "ref.", "reference", "n°", "nº", "№", "#"),
        *("编号", "序号", "来源", "日期", "时间", "类型", "类别", "链接", "网址", "作者", "难度"),
    )
)
# Of these, those by which texts are sorted, and those of who did it.
_CLASSES = frozenset(
    plain(name)
    for name in (
        *("type", "category", "categories", "topic", "subject", "genre", "department", "dept"),
        *("tag", "tags", "topics", "类型", "类别", "科室", "部门"),
    )
)
_PEOPLE = frozenset(
    plain(name)
    for name in (
        *("author", "authors", "annotator", "annotators", "reviewer", "reviewers", "rater"),
        *("labeler", "labeller", "assignee", "worker", "user", "editor", "username", "user name"),
        *("作者", "审核人", "标注人", "标注员", "审核员"),
    )
)
_DONE_BY = re.compile(r"(?i:.+[\s_\-]by)")
_ENDINGS = re.compile(
    r".+([\s_\-](?i:by|ids?|uuid|urls?|hash|date|timestamp|tokens|length|count|len)"
    r"|Ids?|ID|Uuid|Url|Hash|Date|[\s.](?i:no|nr|ref)\.)"
)
_REMARKS = re.compile(
    r"(.*[\s_\-])?(comments?|remarks?|notes?|bemerkung(en)?|anmerkung(en)?|notiz(en)?"
    r"|kommentare?|commentaires?|remarques?)|.*(备注|批注|评语)",
    re.I,
)
_COUNTS = re.compile(r"\A(num|n|nb|number of|count|total|is|has|kept|len)[\s_\-]")
# What such a column holds is short. A source or a subject that is a text of its own is not one.
_LONGEST = 200
_PARTS = frozenset(
    plain(name)
    for name in (
        *("text", "content", "prompt", "system", "instruction", "input", "question", "query"),
        *("problem", "context", "passage", "document", "article", "contract", "evidence", "facts"),
        *("history", "options", "choices", "output", "response", "answer", "answers", "target"),
        *("completion", "summary", "label", "labels", "rationale", "reasoning", "explanation"),
        *("hint", "hints", "laws", "tools", "messages", "conversations", "chosen", "rejected"),
        *("image", "images", "audio", "audios", "video", "videos"),
        *("labels", "answer key", "answer idx", "answer index", "correct", "correct idx", "gold"),
    )
)
_URL = re.compile(r"\s*(https?://|www\.|file:|s3:)\S+\s*")
_DATE = re.compile(r"\s*\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}(日)?([T ]\d{1,2}:\d{2}(:\d{2})?\S*)?\s*")
_NAME = re.compile(r"(?=\S*\d)\S{1,60}", re.ASCII)
_LAST_NUMBER = re.compile(r"\d+$")
_ID = re.compile(r"(?i:ids?|no\.?|nr\.?|number)$|编号|序号")
_CODE = re.compile(r"(?=\S*\d)[\w:./#+=-]{6,}|[0-9a-fA-F-]{8,}", re.ASCII)


def known(name: str) -> bool:
    """Return whether a column is called like a part of some task."""
    return plain(name) in _PARTS


def identify(values: Sequence[Any]) -> bool:
    """Return whether values are identifiers, which say nothing."""
    return all(isinstance(each, str) and _CODE.fullmatch(each) for each in values)


def number_rows(evidence: Evidence, name: str) -> bool:
    """Return whether a column has another name or number for each row, without a word: q_7, or what
    has digits in a column that is called like an id."""
    values = [str(each).strip() for each in evidence.values(name)]
    if len(values) < FEW or len({*values}) < len(values) or not all(map(_NAME.fullmatch, values)):
        return False
    stems = {_LAST_NUMBER.sub("", value) for value in values}
    return len(stems) == 1 or bool(_ID.search(name))


def unread(
    evidence: Evidence, read: Collection[str], text: bool = False
) -> tuple[list[str], list[str]]:
    """Return the columns that nothing reads: those that look like part of the task, and the rest.

    Args:
        evidence: the columns and what they hold.
        read: the columns that something reads, or that the recipe leaves out.
        text: the rows are taken for plain text, so that numbers next to it may be its classes.
    """
    left = [name for name in evidence.columns if name not in read]
    task = [n for n in left if of_task(evidence, n) or (text and may_label(evidence, n))]
    if text and not any(map(evidence.repeats, task)):
        sorts = [name for name in left if sorts_texts(evidence, name)]
        task = [n for n in left if n in task or [n] == sorts]
    return task, [name for name in left if name not in task]


def of_task(evidence: Evidence, name: str) -> bool:
    """Return whether a column looks like part of what is to be learned.

    It does if it is called so, or holds texts or lists of them; unless it is called like what keeps
    books and is short, or holds nothing but addresses, dates, codes and numbers.
    """
    values = evidence.values(name)
    if values and are_thumbs(name, values):
        # A template that reads it wins over one that leaves it to rate the answers.
        return False
    if plain(name) in _PARTS:
        return bool(values) or not any(evidence.values(each) for each in evidence.columns)
    if not values or plain(name).endswith("parse"):
        return False
    if plain(name) == "subject" and len(values) >= FEW and not evidence.repeats(name):
        # What a letter is about, not one of a few subjects.
        return not all(_code(value) for value in values)
    if number_rows(evidence, name):
        return False
    if _keeps_books(name):
        return not all(_short(value) for value in values)
    return not all(_code(value) for value in values)


def may_label(evidence: Evidence, name: str) -> bool:
    """Return whether a column may hold classes that are written as numbers, true or false."""
    values = evidence.values(name)
    different = {str(value).strip() for value in values}
    few = 1 < len(different) <= MOST_CLASSES and len(values) >= 2 * len(different)
    classes = all(
        isinstance(value, bool)
        or not {"boolean", "index"}.isdisjoint(
            kinds_of(value.strip() if isinstance(value, str) else value)
        )
        for value in values
    )
    return few and classes and not _keeps_books(name)


def sorts_texts(evidence: Evidence, name: str) -> bool:
    """Return whether a column that is called like what keeps books may be the label of the texts
    next to it: type, subject."""
    values = evidence.values(name)
    filled = len(values) >= max(FEW, MOST * len(evidence.rows))
    several = len({str(each).strip() for each in values}) > 1
    return plain(name) in _CLASSES and filled and several and evidence.repeats(name)


def names_people(name: str) -> bool:
    """Return whether a column says who wrote, labelled or checked a row."""
    return plain(name) in _PEOPLE or bool(_DONE_BY.fullmatch(name))


def remarks(name: str) -> bool:
    """Return whether a column is called like what somebody remarked on a row."""
    return bool(_REMARKS.fullmatch(name.strip()))


def _keeps_books(name: str) -> bool:
    # Of a path, what it leads to.
    return any(
        plain(each) in _BOOKKEEPING
        or bool(_ENDINGS.fullmatch(each))
        # "Is it enforceable?" asks for a label.
        or (bool(_COUNTS.match(each.casefold())) and not each.rstrip().endswith("?"))
        for each in (name, name.rpartition(".")[2])
    )


def _short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST or _code(value)
    if isinstance(value, dict):
        return all(_short(each) for each in value.values())
    return not isinstance(value, list) or all(isinstance(x, str) and _short(x) for x in value)


def _code(value: Any) -> bool:
    """Whether a value is a number, true or false, or a text that is no words."""
    if isinstance(value, str):
        text = value.strip()
        if any(pattern.fullmatch(text) for pattern in (_URL, _DATE, _CODE)):
            return True
        return "number" in kinds_of(text) and "letter" not in kinds_of(text)
    if isinstance(value, list):
        return all(not isinstance(each, str | list | dict) for each in value)
    return not isinstance(value, dict)
