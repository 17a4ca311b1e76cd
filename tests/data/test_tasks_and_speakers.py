"""Files of tools for labelling, and conversations whose speakers are called in many ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.test_question_files import planned, texts
from tests.data.test_read import write_rows
from tests.data.test_recognise import LINE, prepared, rows_of
from tuner.data.look import look
from tuner.errors import DataError


def labelled(n: int, *labels: str) -> dict[str, Any]:
    """A task of Label Studio with an answer to each of several questions."""
    results = [
        {"value": {"choices": [label]}, "from_name": f"q{k}", "to_name": "note", "type": "choices"}
        for k, label in enumerate(labels)
    ]
    annotations = [{"id": n, "result": results, "was_cancelled": False}] if labels else []
    return {
        **{"id": n, "annotations": annotations, "file_upload": "notes.csv", "predictions": []},
        **{"data": {"boat": f"Barge {n}", "note": f"Barge {n} is here."}, "inner_id": n},
    }


def test_labels_of_label_studio_are_read_by_paths(tmp_path: Path) -> None:
    """A task that nobody answered is no row; two questions are two ways."""
    rows = [labelled(n, *([("late", "early")[n % 2]] if n % 5 else [])) for n in range(20)]
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="no data template fits") as caught:
        planned(tmp_path, train="rows.jsonl")
    (line,) = map(yaml.safe_load, LINE.findall(caught.value.fix))
    assert (line["template"], line["columns"]["text"]) == ("classification", "data.note")
    made = texts(planned(tmp_path, **line))
    assert len(made) == 16
    assert "Barge 1 is here." in made[0]
    assert made[0].rstrip().endswith("early<|im_end|>")
    write_rows(tmp_path / "rows.jsonl", [labelled(n, "late", "coal") for n in range(12)])
    ways = look(Path("rows.jsonl"), tmp_path).ways
    assert [way.task for way in ways] == ["classification (q0)", "classification (q1)"]
    several = labelled(1, "late")
    several["annotations"][0]["result"][0]["value"]["choices"] = ["late", "coal"]
    write_rows(tmp_path / "rows.jsonl", [several] * 12)
    ways = look(Path("rows.jsonl"), tmp_path).ways
    assert "classification" not in [way.template.name for way in ways]


def test_a_speaker_that_no_template_knows_gets_its_role(tmp_path: Path) -> None:
    """The fix names a template of one's own, which works once it has the role."""
    turns = [{"role": "店主", "content": "船在？"}, {"role": "assistant", "content": "在{n}。"}]
    rows = rows_of({"messages": turns})
    with pytest.raises(DataError, match=r'unknown role "店主" \(known: .*顾客') as caught:
        prepared(tmp_path, rows)
    assert "add it to the roles of a template of your own: tuner templates show" in caught.value.fix
    text = (Path(__file__).parents[2] / "data_templates/chat.yaml").read_text("utf-8")
    (tmp_path / "own.yaml").write_text(text.replace(" user: user\n", " 店主: user\n"), "utf-8")
    assert len(prepared(tmp_path, rows, template="own.yaml").train) == len(rows)


def test_conversations_come_before_what_they_are_about(tmp_path: Path) -> None:
    turns = [{"角色": "用户", "内容": "船{n}？"}, {"角色": "坐席", "内容": "在。"}]
    rows = [{**row, "场景": "港河"[n % 2]} for n, row in enumerate(rows_of({"对话": turns}) * 3)]
    write_rows(tmp_path / "rows.jsonl", rows)
    found = look(Path("rows.jsonl"), tmp_path)
    assert found.error is not None
    assert [way.task for way in found.ways[:2]] == ["conversations", "classification"]
    first = yaml.safe_load(LINE.findall(found.error.fix)[0])
    assert first == {"train": "rows.jsonl", "columns": {"场景": "none"}}


@pytest.mark.parametrize("column", ["comment", "Reviewer notes", "备注"])
def test_remarks_next_to_a_label_are_left_out(tmp_path: Path, column: str) -> None:
    """They may give the label away; reading them with the text is not offered."""
    rows = [
        {"text": f"Barge {n} is here.", column: f"Call back {n}.", "label": ("in", "out")[n % 2]}
        for n in range(20)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    (way,) = look(Path("rows.jsonl"), tmp_path).ways
    assert way.columns == {column: "none"}
    with pytest.raises(DataError) as caught:
        planned(tmp_path, train="rows.jsonl")
    (line,) = map(yaml.safe_load, LINE.findall(caught.value.fix))
    assert "Call back" not in texts(planned(tmp_path, **line))[0]
