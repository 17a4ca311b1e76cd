"""docs/how-to.md, executed on a tiny base: its recipes and commands, in order."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import rows, write_rows
from tests.inference.test_labels import ROWS
from tests.run.launched import record
from tests.tools.make_docs import ROOT
from tuner import cli

PAGE = (ROOT / "docs/how-to.md").read_text("utf-8")
# Layers of Llama 3 70B.
LARGE = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
LARGE |= {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line)[1:])
    return int(ended.value.code or 0), capsys.readouterr().out


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture
def project(bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page names, with a tiny base and few steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for number in range(8):
        (tmp_path / f"docs/{number}.txt").write_text(f"Lease {number}.\n\nThe tenant pays.\n")
    asked = rows(12)
    write_rows(tmp_path / "questions.jsonl", asked)
    turns = [("user", "instruction"), ("assistant", "output")]
    write_rows(
        tmp_path / "chats.jsonl",
        [{"messages": [{"role": r, "content": row[k]} for r, k in turns]} for row in asked],
    )
    better = [{"chosen": row["output"], "rejected": "No."} for row in asked]
    pairs = [{"prompt": a["instruction"], **b} for a, b in zip(asked, better, strict=True)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    write_rows(tmp_path / "tickets.jsonl", ROWS * 3)
    (house,), (rewards,) = blocks("jinja"), blocks("python")
    (tmp_path / "house.jinja").write_text(house)
    (tmp_path / "rewards.py").write_text(rewards)
    large = tmp_path / "models/llama-70b"
    large.mkdir(parents=True)
    for file in (*bases("llama").glob("tokenizer*"), *bases("llama").glob("*.jinja")):
        shutil.copy(file, large)
    config = json.loads((bases("llama") / "config.json").read_text())
    (large / "config.json").write_text(json.dumps(config | LARGE))
    for text in blocks("yaml"):
        recipe = yaml.safe_load(text)
        if recipe["model"]["base"] == "smollm2-135m":
            recipe["model"]["base"] = str(bases("llama"))
        recipe["train"] = {"max_steps": 2, "batch_size": 4}
        name = text.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_each_recipe_does_what_the_page_says(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for line in "".join(blocks("sh")).splitlines():
        code, said[line] = run(line, capsys)
        gated = "ci.yaml" in line
        assert code in ((0, 5) if gated else (0,)), (line, said[line])
        if gated:
            (gate,) = record(project / "runs/ci")["gates"]
            assert (code == 5) == (not gate["passed"])
    report = json.loads((project / "runs/documents/data_report.json").read_text())
    assert report["rows_in"] == 8
    house = (project / "runs/house/adapter/chat_template.jinja").read_text()
    assert "<|im_start|>{{ m.role }}" in house
    (plan,) = [text for line, text in said.items() if "large.yaml" in line]
    assert "on 2 GPUs" in " ".join(plan.split())
    assert "does not fit" in plan, "16 GiB cards"
    assert sorted(path.name for path in (project / "runs/ci").iterdir() if path.is_dir()) == [
        "adapter", "checkpoints", "int8", "merged",
    ]  # fmt: skip


def test_each_task_has_a_recipe_or_a_page() -> None:
    """What the page promises at its top is at the other end of its links."""
    names = [text.splitlines()[0].removeprefix("# ") for text in blocks("yaml")]
    commands = "".join(blocks("sh"))
    assert [name for name in names if name not in commands] == []
    assert len(names) == len({*names})


@pytest.mark.slow
def test_a_public_suite_scores_the_merged_folder(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """As the page says of lm-eval, with a task over local rows."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install lm-eval)")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    write_rows(tmp_path / "rows.jsonl", [{"q": "Say 1.", "a": "1"}, {"q": "Say 2.", "a": "2"}])
    task = {
        "task": "local", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(task))
    found = simple_evaluate(
        model="hf", model_args=f"pretrained={bases('llama')}", tasks=["local"], device="cpu",
        task_manager=TaskManager(include_path=str(tmp_path)), apply_chat_template=True,
    )  # fmt: skip
    assert "exact_match,none" in found["results"]["local"]
