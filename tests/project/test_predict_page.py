"""docs/predict.md, executed: its recipe and commands, and what the page says of the lines."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import write_rows
from tests.inference.test_labels import ROWS
from tests.tools.make_docs import ROOT
from tuner import cli

PAGE = (ROOT / "docs/predict.md").read_text("utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def run(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return int(ended.value.code or 0)


def read(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_commands_of_the_page_do_what_the_page_says(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    recipe = yaml.safe_load(text)
    recipe["model"]["base"] = str(bases("llama"))
    recipe["train"] = {"max_steps": 2, "batch_size": 4}
    monkeypatch.chdir(tmp_path)
    Path("tickets.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    write_rows(Path("tickets.jsonl"), ROWS)
    write_rows(Path("new.jsonl"), [{"id": n, "text": row["text"]} for n, row in enumerate(ROWS)])
    first, train, sort, resume = commands()
    assert run(train) == 0
    assert run(sort) == 0
    found = read("labels.jsonl")
    assert [line["columns"] for line in found] == [{"id": n} for n in range(len(ROWS))]
    for line in found:
        shares = line["probabilities"]
        assert isinstance(shares, dict)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert line["label"] in shares
    # The page's other run writes text.
    write_rows(Path("asked.jsonl"), [{"instruction": "Say it.", "output": "It."}] * 8)
    recipe["data"] = {"train": "asked.jsonl", "eval": 0}
    Path("legal.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    assert run(["lora", "legal.yaml"]) == 0
    write_rows(Path("questions.jsonl"), [{"instruction": "Say it."}, {"instruction": "Do not."}])
    assert run(first) == 0
    answers = Path("answers.jsonl").read_bytes()
    assert [line["line"] for line in read("answers.jsonl")] == [1, 2]
    assert run(first) == 2
    Path("answers.jsonl").write_bytes(answers.splitlines(keepends=True)[0])
    assert run(resume) == 0
    assert Path("answers.jsonl").read_bytes() == answers
    assert Path("answers.jsonl.settings.json").is_file()


def test_the_page_names_every_option() -> None:
    """Those that the commands of a page and its table do not name are common ones."""
    from tests.cli.command import params

    common = {"--base", "--adapter", "--force-base", "--quiet", "--system", "--chat-argument"}
    options = {name for each in params("predict").values() for name in each.opts} - {"run"}
    assert {name for name in options - common if name not in PAGE} == set()
