"""The bundled data templates: their samples are their tests, and what they accept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tuner.data.bad_rows import BadRow
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.template_match import choose
from tuner.data.reading.read import Row
from tuner.data.rows.dialogue import Dialogue, RowRenderer
from tuner.data.templates.template import Sample, all_templates, load_template
from tuner.errors import DataError, RecipeError
from tuner.recipe import bundled
from tuner.recipe.schema import DataSection

SHIPPED = [
    "chat",
    "classification",
    "classification_with_instruction",
    "cloze",
    "cot",
    "cot_zh",
    "data_to_text",
    "data_to_text_zh",
    "entailment",
    "entailment_zh",
    "extraction",
    "extraction_zh",
    "instruction",
    "instruction_zh",
    "multiple_answers",
    "multiple_answers_zh",
    "multiple_choice",
    "multiple_choice_zh",
    "pair_classification",
    "pair_classification_zh",
    "prompt_completion",
    "qa_with_context",
    "qa_zh",
    "sharegpt",
    "structured",
    "summarisation",
    "summarisation_zh",
    "table_qa",
    "table_qa_zh",
    "text",
    "tool_calls",
    "translation",
    "translation_en_zh",
    "translation_zh",
    "translation_zh_en",
    "yes_no",
    "yes_no_zh",
]
HERE = Path(__file__).parent
SAMPLES = [(name, i) for name in SHIPPED for i in range(2)]


def dialogue(name: str, row: dict[str, Any], **keys: Any) -> Dialogue:
    """The row rendered through a template that the recipe names."""
    data = DataSection(train=("x.jsonl",), template=name, **keys)
    fit = choose(data, row, HERE, evidence=Evidence([row]))
    return RowRenderer(fit).render(Row(Path("x.jsonl"), 1, row))


def sample(name: str, index: int) -> Sample:
    return load_template(name, HERE).samples[index]


def test_every_template_ships_and_is_listed() -> None:
    assert sorted(bundled.files("data_templates")) == SHIPPED
    infos = {info.name: info for info in all_templates()}
    assert sorted(infos) == SHIPPED
    assert infos["cot"].columns.names == ("question", "rationale", "answer")
    assert all(len(load_template(name, HERE).samples) == 2 for name in SHIPPED)
    listed = (HERE.parents[1] / "docs" / "templates.md").read_text("utf-8").split("| what is")[1]
    assert sorted(set(re.findall(r"`(\w+)`", listed)).intersection(SHIPPED) ^ {*SHIPPED}) == []


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_sample_renders_as_its_template_says(name: str, index: int) -> None:
    expected = sample(name, index)
    found = dialogue(name, expected.row)
    if expected.turns is not None:
        assert [_turn(message) for message in found.messages] == expected.turns
    else:
        segments = [{"text": s.text, "supervised": s.supervised} for s in found.segments]
        assert segments == expected.segments


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    if calls := message.get("tool_calls"):
        return {"role": message["role"], "calls": [call["function"] for call in calls]}
    return {"role": message["role"], "content": message["content"]}


# One is used where it is named; of the other two, only the recipe can say which way they go.
BY_NAME = ("cloze", "translation_en_zh", "translation_zh_en")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in BY_NAME])
def test_samples_are_recognised_by_columns_and_contents(name: str) -> None:
    for index in range(2):
        row = sample(name, index).row
        found = choose(DataSection(train=("x",)), row, HERE, evidence=Evidence([row]))
        assert found.template.name == name


def test_the_direction_of_a_translation_is_asked_for() -> None:
    row = sample("translation_en_zh", 0).row
    with pytest.raises(DataError) as caught:
        choose(DataSection(train=("x",)), row, HERE, evidence=Evidence([row]))
    assert all(name in str(caught.value) for name in BY_NAME[1:])


def test_the_film_review_is_used_only_where_it_is_named() -> None:
    """Not even where the recipe renames columns to those that it reads."""
    row = {"review": "Lovely.", "stars": "positive"}
    data = DataSection(train=("x",), columns={"text": "review", "label": "stars"})
    assert choose(data, row, HERE).template.name == "classification"
    assert choose(DataSection(train=("x",)), ["text", "label"], HERE).template.name != "cloze"


def test_renamed_columns_are_no_sign_of_a_template_for_another_language() -> None:
    data = DataSection(train=("x",), columns={"instruction": "ask", "output": "reply"})
    assert choose(data, ["ask", "reply"], HERE).template.name == "instruction"
    assert (
        choose(DataSection(train=("x",)), ["指令", "输出"], HERE).template.name == "instruction_zh"
    )


def test_text_of_a_row_is_never_template_source() -> None:
    """M17: braces, quotes and backslashes in a row stay what they are."""
    text = 'it\'s {{ 7*7 }} \\n "q" {% if true %}x{% endif %}'
    found = dialogue("instruction", {"system": text, "instruction": text, "output": text})
    assert [message["content"] for message in found.messages] == [text] * 3
    structured = dialogue(
        "structured", {"instruction": text, "output_indicator": text, "output": text}
    )
    assert structured.messages[0]["content"] == f"{text}\n\nOutput: {text}"


def test_more_than_one_fit_is_an_error_that_lists_them() -> None:
    """D08: `messages` beside `text` is ambiguous unless the recipe names a template."""
    row = {"messages": [{"role": "user", "content": "x"}], "text": "y"}
    with pytest.raises(DataError) as caught:
        choose(DataSection(train=("x",)), row, HERE)
    assert {line.split(":")[0] for line in caught.value.problems} == {"chat", "text"}
    assert choose(DataSection(train=("x",), template="text"), row, HERE).template.name == "text"


def test_misspelt_columns_name_found_expected_and_nearest() -> None:
    """D08: `promt` instead of `prompt`."""
    with pytest.raises(DataError) as caught:
        choose(DataSection(train=("x",)), ["promt", "completion"], HERE)
    text = str(caught.value)
    assert "found: promt, completion" in text
    assert "prompt_completion expects: prompt, completion ('promt' is similar to 'prompt')" in text


def test_columns_are_renamed() -> None:
    row = {"review": "Lovely.", "stars": "positive"}
    found = dialogue("cloze", row, columns={"text": "review", "label": "stars"})
    assert found.answer == "positive"
    with pytest.raises(DataError, match="no column 'revue'") as caught:
        dialogue("cloze", row, columns={"text": "revue", "label": "stars"})
    assert "review" in caught.value.fix
    with pytest.raises(RecipeError, match="'txt'"):
        dialogue("cloze", row, columns={"txt": "review"})


def test_unknown_template_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        load_template("instructon", HERE)
    assert "instruction" in caught.value.fix


def test_own_template_file_with_its_problems_named(tmp_path: Path) -> None:
    good = (HERE.parents[1] / "data_templates" / "cot.yaml").read_text("utf-8")
    (tmp_path / "mine.yaml").write_text(good.replace("name: cot", "name: mine"), "utf-8")
    assert load_template("mine.yaml", tmp_path).name == "mine"
    (tmp_path / "bad.yaml").write_text(good.replace("{{ question }}", "{{ questoin }}"), "utf-8")
    with pytest.raises(DataError, match="not a data template") as caught:
        load_template("bad.yaml", tmp_path)
    assert "questoin" in str(caught.value)
    (tmp_path / "worse.yaml").write_text(good + "turnz: []\n", "utf-8")
    with pytest.raises(DataError) as caught:
        load_template("worse.yaml", tmp_path)
    assert "turnz" in str(caught.value)
    assert "line " in str(caught.value)


def test_templates_run_in_a_sandbox(tmp_path: Path) -> None:
    text = "name: evil\ndescription: x\ncolumns: {required: [text]}\n"
    text += "text: \"{{ ''.__class__.__mro__[1].__subclasses__() }}{{ text }}\"\n"
    (tmp_path / "evil.yaml").write_text(text, "utf-8")
    data = DataSection(train=("x",), template="evil.yaml")
    renderer = RowRenderer(choose(data, ["text"], tmp_path))
    with pytest.raises(BadRow):
        renderer.render(Row(Path("x"), 1, {"text": "y"}))
