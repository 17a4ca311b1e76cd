"""Files of questions and answers as they come: nested, in two languages, in lines of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.test_read import write_rows
from tests.data.test_recognise import LINE, is_understood, prepared, rows_of, seen
from tests.tokenizers import make_tokenizer
from tuner.data.look import look
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, TunerError
from tuner.recipe.schema import DataSection

COUNT = range(11)
PASSAGE = "Barge {n} left lock {m} with coal. It came back with salt. " * 5


def texts(result: Prepared) -> list[str]:
    tokenizer = make_tokenizer("chatml")
    return [tokenizer.decode(each.input_ids) for each in result.train]


def planned(folder: Path, **keys: Any) -> Prepared:
    data = DataSection.model_validate({"eval": 0, **keys})
    return SftData(Inputs(data, make_tokenizer("chatml"), folder, 7, 4096)).prepare()


def asked(n: int, m: int, chinese: bool = False) -> list[dict[str, Any]]:
    """Two questions on a passage; the second has two answers, of which the first counts."""
    ask = "第{}条船装了什么？{}" if chinese else "What was in barge {}? {}"
    said = "煤" if chinese else "coal"
    return [
        {
            "id": f"{n}-{m}-{k}",
            "question": ask.format(n, f"{m}{k}"),
            "answers": [{"text": f"{said} {n}{m}{k}", "answer_start": 9}, {"text": "?"}][: k + 1],
        }
        for k in range(2)
    ]


def article(n: int, chinese: bool = False) -> dict[str, Any]:
    about = "第{n}条船运煤，经过第{m}道船闸。" if chinese else PASSAGE
    passages = [
        {"context": about.format(n=n, m=m), "qas": asked(n, m, chinese)} for m in range(n % 3 + 1)
    ]
    return {"title": f"Barge {n}", "paragraphs": passages}


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_articles_with_paragraphs_with_questions(
    tmp_path: Path, chinese: bool, whole: bool
) -> None:
    """The first recipe of the error makes a row of every question, with its own paragraph."""
    rows = [article(n, chinese) for n in COUNT]
    name = "a.json" if whole else "a.jsonl"
    if whole:
        (tmp_path / name).write_text(json.dumps({"version": "v1", "data": rows}), "utf-8")
    else:
        write_rows(tmp_path / name, rows)
    with pytest.raises(DataError, match="no data template fits") as caught:
        planned(tmp_path, train=name)
    line = yaml.safe_load(LINE.findall(caught.value.fix)[0])
    result = planned(tmp_path, **line)
    assert result.report["unread_columns"] == []
    made = texts(result)
    every = [(n, m, k) for n in COUNT for m in range(n % 3 + 1) for k in range(2)]
    assert len(made) == len(every)
    for text, (n, m, k) in zip(made, every, strict=True):
        assert (f"第{n}条船运煤，经过第{m}道" if chinese else f"Barge {n} left lock {m}") in text
        assert f"{'煤' if chinese else 'coal'} {n}{m}{k}<" in text


PAIRS = [{"question": f"What left lock {k}?", "answer": f"Barge {k}."} for k in range(2)]
LISTS = {"questions": ["Who left?", "Who came?"], "answers": ["Barge {n}.", "Barge {m}."]}
NESTED: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "a document with pairs": (
        {"document": PASSAGE, "title": "Barge {n}", "qa": PAIRS},
        "qa_with_context",
        {"context": "document", "question": "qa.*.question", "answer": "qa.*.answer"},
    ),
    "next to a summary": (
        {"text": PASSAGE, "summary": "Barge {n} went.", "qa_pairs": PAIRS},
        "qa_with_context",
        {"context": "text", "question": "qa_pairs.*.question", "answer": "qa_pairs.*.answer"},
    ),
    "pairs that look like turns": (
        {"story": PASSAGE, "qa": PAIRS},
        "qa_with_context",
        {"context": "story", "question": "qa.*.question", "answer": "qa.*.answer"},
    ),
    "in Chinese": (
        {
            "文章": "第{n}条船运煤。" * 9,
            "标题": "船{n}",
            "问答": [{"问题": "谁？", "答案": "船{n}"}],
        },
        "qa_zh",
        {"context": "文章", "question": "问答.*.问题", "answer": "问答.*.答案"},
    ),
    "two lists": (
        {"story": PASSAGE, **LISTS},
        "qa_with_context",
        {"context": "story", "question": "questions.*", "answer": "answers.*"},
    ),
    "lists of options": (
        {"article": PASSAGE, **LISTS, "answers": ["A", "B"], "options": [["he", "she"]] * 2},
        "multiple_choice",
        {
            **{"context": "article", "question": "questions.*", "answer": "answers.*"},
            "options": "options.*",
        },
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_questions_inside_of_a_document_are_offered_first(tmp_path: Path, name: str) -> None:
    row, template, columns = NESTED[name]
    found = seen(tmp_path, row)
    assert found.error is not None
    first = found.ways[0]
    assert first.template.name == template
    assert {key: file for key, file in first.columns.items() if file != "none"} == columns
    rows = rows_of(row)
    made = prepared(tmp_path, rows, template=template, columns=dict(first.columns))
    nested = next(value for value in row.values() if isinstance(value, list))
    assert len(made.train) == len(rows) * len(nested)


LONG = "第{n}号船今天上午离开了码头，船上装着煤和盐，预计明天到达。" * 6
COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "JEC-QA": (
        {
            **{"statement": "第{n}号船归谁？", "id": "0_{n}", "subject": "民法"},
            **{"option_list": {"A": "甲", "B": "乙"}, "answer": (["A"], ["B"])},
        },
        "multiple choice: question (column statement), 2 options in column option_list",
    ),
    "several right options": (
        {"question": "Which of {n} float?", "A": "oak", "B": "iron", "C": "cork", "answer": "AC"},
        "multiple choice with several right options: question, 3 options in columns A-C, answer is "
        "one or more of them",
    ),
    "several, as a list": (
        {"question": "Which of {n} float?", "choices": ["oak", "iron"], "answer": [0, 1]},
        "multiple choice with several right options: ",
    ),
    "several, in Chinese": (
        {"题目": "第{n}题：哪些会浮？", "选项": {"A": "木", "B": "铁"}, "答案": ("A", "A、B")},
        "multiple choice with several right options: question (column 题目)",
    ),
    "COPA": (
        {
            **{"premise": "Barge {n} sank.", "choice1": "It leaked.", "choice2": "It flew."},
            **{"question": ("cause", "effect"), "label": (0, 1), "idx": 7},
        },
        "multiple choice: question, context (column premise), 2 options in columns choice1",
    ),
    "history in Chinese": (
        {"问题": "第{n}号呢？", "回答": "也在{n}号码头。", "历史": [["船在哪？", "在码头。"]]},
        "questions: question (column 问题), history is a list of pairs (column 历史)",
    ),
    "laws and history": (
        {
            "query": "第{n}号船归谁？",
            "laws": ["第{n}条"],
            "history": [["好", "好"]],
            "response": "{n}",
        },
        "questions: question (column query), context is a list of 1 (column laws), history",
    ),
    "statutes": (
        {"question": "Who owns barge {n}?", "statutes": ["Section {n}: it."], "answer": "He {n}."},
        "questions about a text: context is a list of 1 (column statutes), question, answer",
    ),
    "laws in Chinese": (
        {"问题": "第{n}号船归谁？", "法条": ["第{n}条"], "回答": "归{n}。"},
        "questions: question (column 问题), context is a list of 1 (column 法条), answer",
    ),
    "Chinese turn keys": (
        {"对话": [{"角色": "用户", "内容": "船{n}？"}, {"角色": "助手", "内容": "在。"}]},
        "conversations: messages (column 对话)",
    ),
    "Chinese speakers": (
        {"对话": [{"说话人": "用户", "文本": "船{n}？"}, {"说话人": "客服", "文本": "在。"}]},
        "conversations: messages (column 对话)",
    ),
    "yes or no in Chinese": (
        {"段落": "第{n}号船在码头。", "问题": "船在吗？", "回答": ("是", "不是")},
        "yes or no: question (column 问题), passage (column 段落), answer is 是 or 不是",
    ),
    "a summary in Chinese": (
        {"文本": LONG, "总结": "船{n}离开了。"},
        "summarisation: document (column 文本), summary (column 总结)",
    ),
    "relations": (
        {"text": "第{n}号船由张三造。", "spo_list": [["船{n}", "造船者", "张三"]]},
        "extraction: text, output is a table (column spo_list)",
    ),
    "an instruction and a question": (
        {"instruction": "请回答问题", "问题": "第{n}号船在哪？", "回答": "在{n}号码头。"},
        "instructions: instruction, input (column 问题), output (column 回答)",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_known_by_the_names_of_the_field(tmp_path: Path, name: str) -> None:
    is_understood(tmp_path, *COLUMNS[name])


def test_a_list_of_answers_is_a_ranking_or_one_answer(tmp_path: Path) -> None:
    rows = rows_of({"question": "Who left {n}?", "answers": ["Barge {n}.", "The barge."]})
    with pytest.raises(DataError, match="rankings, best first") as caught:
        prepared(tmp_path, rows)
    line = yaml.safe_load(LINE.findall(caught.value.fix)[1])
    assert line.pop("train") == "rows.jsonl"
    assert "Barge 3.<" in texts(prepared(tmp_path, rows, **line))[3]


def test_questions_without_an_answer_are_rows_to_skip(tmp_path: Path) -> None:
    """SQuAD 2.0: the recipe reads the others; no title becomes an answer."""
    rows = [article(n) for n in COUNT]
    for row in rows[::3]:
        row["paragraphs"][0]["qas"][0]["answers"] = []
    write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="no data template fits") as caught:
        planned(tmp_path, train="a.jsonl")
    line = yaml.safe_load(LINE.findall(caught.value.fix)[0])
    with pytest.raises(DataError, match=r"data\.max_bad_rows: 4") as caught:
        planned(tmp_path, **line)
    assert "qas.*.answers.0.text' is missing: a.jsonl:1 paragraphs.0.qas.0" in str(caught.value)
    made = planned(tmp_path, **line, max_bad_rows=4)
    assert len(made.train) == sum(2 * (n % 3 + 1) for n in COUNT) - 4


@pytest.mark.parametrize("chinese", [False, True])
def test_answers_as_an_object_of_lists_are_read_by_their_first(
    tmp_path: Path, chinese: bool
) -> None:
    """SQuAD and CMRC by columns, some questions without an answer; the answers are no yes and no,
    even if the recipe names only their column."""
    about = "第{n}号船运煤，明天到达码头。" if chinese else PASSAGE
    said, asks = ("煤", "第{n}号船装了什么？") if chinese else ("coal", "What was in {n}?")
    row = {"id": "{n}", "context": about, "question": asks}
    rows = rows_of({**row, "answers": {"text": [f"{said} {{n}}", "?"], "answer_start": [3, 3]}})
    for each in rows[::5]:
        each["answers"] = {"text": [], "answer_start": []}
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="no data template fits") as caught:
        planned(tmp_path, train="rows.jsonl", max_bad_rows=9)
    line = yaml.safe_load(LINE.findall(caught.value.fix)[0])
    assert line["template"] == ("qa_zh" if chinese else "qa_with_context")
    assert line["columns"] == {"answer": "answers.text.0"}
    for keys in (line, {**line, "template": "auto"}):
        made = planned(tmp_path, **{**keys, "max_bad_rows": 9})
        assert made.template == line["template"]
        assert len(made.train) == len(rows) - len(rows[::5])
        assert f"{said} 1<" in texts(made)[0]


@pytest.mark.parametrize("name", ["解析", "explanation"])
def test_what_explains_an_answer_is_no_part_of_its_question(tmp_path: Path, name: str) -> None:
    """Questions with options are offered as those: with its reasoning, or without."""
    row = {"题干": "第{n}题：哪些会浮？", "选项A": "木", "选项B": "铁", "答案": ("A", "B", "AB")}
    found = seen(tmp_path, {**row, name: "木比水轻，第{n}题就选它。", "章节": ("船", "水", "天")})
    choice = "multiple choice with several right options"
    assert [way.task for way in found.ways if name not in way.columns][:1] == [
        f"{choice} with reasoning"
    ]
    assert found.ways[0].keys == {"reasoning_column": name}
    assert all(name not in each for way in found.ways for each in way.columns.values())
    clauses = [
        {"条款": f"第{n}号船归{n}。", "风险": "高低"[n % 2], name: f"因为第{n}条。"}
        for n in range(12)
    ]
    write_rows(tmp_path / "rows.jsonl", clauses)
    ways = look(Path("rows.jsonl"), tmp_path).ways
    assert "classification" in [way.template.name for way in ways]
    assert all(name not in each for way in ways for each in way.columns.values())


def test_several_right_options_are_learned_in_their_order(tmp_path: Path) -> None:
    right = ["AC", "C, A", ["A", "C"], '["C", "A"]', "oak", "A；C", "ca", "B"]
    options = {"A": "oak", "B": "iron", "C": "cork"}
    rows = [
        {"question": f"{n}?", "options": options, "answer": each} for n, each in enumerate(right)
    ]
    made = texts(prepared(tmp_path, [row for row in rows if row["answer"] not in ("oak", "ca")]))
    assert [text.split("assistant\n")[1].split("<")[0] for text in made] == ["AC"] * 5 + ["B"]
    assert "the letters of all right options" in made[0]


@pytest.mark.parametrize("several", [False, True])
def test_held_out_rows_are_asked_as_the_training_rows(tmp_path: Path, several: bool) -> None:
    options = {"A": "oak", "B": "iron", "C": "cork"}
    rows = [{"question": f"{n}?", "options": options, "answer": "A"} for n in COUNT]
    many = [{**row, "question": f"Which of {row['question']}", "answer": "AC"} for row in rows]
    write_rows(tmp_path / "held.jsonl", rows if several else many)
    if several:
        (first, *_) = prepared(tmp_path, many, eval="held.jsonl").eval
        assert "the letters of all right options" in first.prompt_text
    else:
        with pytest.raises(DataError, match="an answer names several options"):
            prepared(tmp_path, rows, eval="held.jsonl")


def test_causes_and_effects_are_asked_for_in_words(tmp_path: Path) -> None:
    first, second = texts(prepared(tmp_path, rows_of(COLUMNS["COPA"][0])))[:2]
    assert "Barge 0 sank.\n\nWhat was the cause?\n\nA. It leaked." in first
    assert "What happened as a result?" in second


OFFERED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a title next to what is asked": (
        {
            **{"department": "码头", "title": "船{n}漏水", "ask": "第{n}号船漏水怎么办？"},
            "answer": "请补好第{n}号船。",
        },
        {
            "template": "instruction",
            "columns": {"instruction": "title", "output": "answer", "input": "ask"},
        },
    ),
    "reasoning": (
        {"Question": "Why did {n} sink?", "Complex_CoT": "Well, {n} leaks.", "Response": "It {n}."},
        {
            **{"template": "instruction", "reasoning_column": "Complex_CoT"},
            "columns": {"instruction": "Question", "output": "Response"},
        },
    ),
    "a headline": (
        {"content": PASSAGE, "title": "Barge {n} left"},
        {"template": "summarisation", "columns": {"document": "content", "summary": "title"}},
    ),
    "two languages": (
        {"translation": {"en": "Barge {n} has left.", "de": "Kahn {n} ist fort."}},
        {
            **{
                "template": "prompt_completion",
                "instruction": "Translate from English into German.",
            },
            "columns": {"prompt": "translation.en", "completion": "translation.de"},
        },
    ),
    "laws next to an instruction": (
        {"instruction": "第{n}号船归谁？", "input": "", "output": "归{n}。", "laws": ["第{n}条"]},
        {
            "template": "qa_zh",
            "columns": {"question": "instruction", "answer": "output", "context": "laws"},
        },
    ),
    "a history that is a text": (
        {"question": "And {n}?", "answer": "It {n}.", "history": "We spoke of barge {n}."},
        {"template": "qa_with_context", "columns": {"context": "history", "history": "none"}},
    ),
    "laws as the system turn": (
        {"system": ["第{n}条", "第二条"], "question": "船{n}归谁？", "answer": "归{n}。"},
        {"template": "qa_zh", "columns": {"context": "system"}},
    ),
}


@pytest.mark.parametrize("name", OFFERED)
def test_what_is_not_sure_is_offered_and_reads_the_rows(tmp_path: Path, name: str) -> None:
    row, keys = OFFERED[name]
    rows = rows_of(row)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows)
    line = yaml.safe_load(LINE.findall(caught.value.fix)[0])
    assert line == {"train": "rows.jsonl", **keys}
    result = prepared(tmp_path, rows, **{k: v for k, v in line.items() if k != "train"})
    assert result.report["rows_train"] == len(rows)
    assert result.report["unread_columns"] == []


def test_a_heading_asks_where_the_question_is_blank(tmp_path: Path) -> None:
    rows = rows_of(
        {"部门": ("内科", "外科"), "标题": "船{n}漏水怎么办", "问": "船{n}。", "答": "补{n}。"}
    )
    rows = [*rows * 5, {**rows[1], "问": ""}]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows)
    line = yaml.safe_load(LINE.findall(caught.value.fix)[0])
    assert line.pop("train") == "rows.jsonl"
    assert line["columns"] == {"question": "标题 + 问", "answer": "答"}
    result = prepared(tmp_path, rows, **line)
    assert result.report["rows_train"] == len(rows)
    assert "user\n船1漏水怎么办<" in texts(result)[-1]


TEXTS = {
    "two lines": ("Q: Who left {n}?\nA: Barge {n}.\n\n", "Who left {n}?", "Barge {n}."),
    "marks alone": ("Q:\nWho left {n}?\nA:\n\nBarge {n}.\n", "Who left {n}?", "Barge {n}."),
    "one line": ("Q: Who left {n}? A: Barge {n}.\n", "Who left {n}?", "Barge {n}."),
    "a stroke between": ("Q: Who left {n}? / A: Barge {n}.\n", "Who left {n}?", "Barge {n}."),
    "more lines": (
        "Question {n}: Who left {n}?\nAnswer: Barge {n}.\nIt was slow.\n",
        *("Who left {n}?", "Barge {n}.\nIt was slow."),
    ),
    "Chinese": ("问：谁走了{n}？\n答：{n}号船。\n", "谁走了{n}？", "{n}号船。"),
    "Chinese in one line": ("问：谁走了{n}？答：{n}号船。\n", "谁走了{n}？", "{n}号船。"),
    "with numbers": ("{n}. 问题：谁走了？\n回答：{n}号船。\n", "谁走了？", "{n}号船。"),
    "speakers": ("User: Who left {n}?\nAssistant: Barge {n}.\n", "Who left {n}?", "Barge {n}."),
}


@pytest.mark.parametrize("name", TEXTS)
def test_lines_of_questions_and_answers_are_asked_about(tmp_path: Path, name: str) -> None:
    """Both recipes work: a row for each question, or a row for each line."""
    form, question, answer = TEXTS[name]
    text = "".join(form.replace("{n}", str(n)) for n in COUNT)
    (tmp_path / "faq.txt").write_text(text, "utf-8")
    with pytest.raises(DataError, match="as questions and answers, or as plain text") as caught:
        planned(tmp_path, train="faq.txt")
    assert look(Path("faq.txt"), tmp_path).ways[0].template.name == "chat"
    turns, plain = [yaml.safe_load(line) for line in LINE.findall(caught.value.fix)]
    made = planned(tmp_path, **turns)
    assert len(made.train) == len(COUNT)
    for n, said in zip(COUNT, texts(made), strict=True):
        for role, part in (("user", question), ("assistant", answer)):
            assert f"{role}\n{part.replace('{n}', str(n))}<" in said
    assert any("as rows of their own" in each for each in made.report["warnings"])
    lines = sum(bool(line.strip()) for line in text.splitlines())
    assert len(planned(tmp_path, **plain).train) == lines


def test_conversations_are_apart_by_empty_lines(tmp_path: Path) -> None:
    said = "User: Who left {n}?\nAssistant: Barge.\nUser: When?\nAssistant: At {n}.\n\n"
    text = "".join(said.replace("{n}", str(n)) for n in COUNT)
    (tmp_path / "log.txt").write_text(text, "utf-8")
    with pytest.raises(DataError, match="as conversations, or as plain text"):
        planned(tmp_path, train="log.txt")
    made = planned(tmp_path, train="log.txt", template="chat")
    assert [each.row for each in made.train][:2] == ["log.txt:1", "log.txt:6"]
    assert texts(made)[3].count("<|im_start|>") == 4


@pytest.mark.parametrize(
    "form",
    [
        "Note: barge {n} left.\nA: coal. It came back.\n",
        "Q: Which floats {n}?\nA: oak\nB: iron\n",
        "Barge {n} left. Q: is not at its start, nor A: here.\n",
    ],
)
def test_other_lines_are_plain_text(tmp_path: Path, form: str) -> None:
    (tmp_path / "t.txt").write_text("".join(form.replace("{n}", str(n)) for n in COUNT), "utf-8")
    assert planned(tmp_path, train="t.txt").template == "text"


REFUSED: dict[str, dict[str, Any]] = {
    "classes without names": {"text": "Barge {n} is late.", "label": (0, 1, 2)},
    "disliked answers": {"prompt": "Who left {n}?", "response": "It {n}.", "liked": (True, False)},
    "what is no option": {
        "question": "Who {n}?",
        "A": "he",
        "B": "she",
        "answer": (*"ABABABA", "E"),
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_look_has_the_error_of_the_plan(tmp_path: Path, name: str) -> None:
    """What needs no tokenizer is checked by the same steps."""
    found = seen(tmp_path, REFUSED[name])
    with pytest.raises(TunerError) as caught:
        prepared(tmp_path, rows_of(REFUSED[name]))
    assert str(found.error) == str(caught.value)
    assert found.understood
    assert found.ways
