"""The reference pages are those of the schema and the commands, and their examples hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import tuner
from tests.conftest import write_rows
from tests.tools.make_docs import PAGES, ROOT, example_of
from tuner.methods import METHODS
from tuner.recipe import schema as recipe
from tuner.recipe.json_schema import json_schema

TEMPLATES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/templates.md").read_text("utf-8"), re.S)
ROWS: dict[str, dict[str, Any]] = {
    "contract": {"contract": "Rent is due.", "question": "What is due?", "answer": "Rent."},
    "interview": {"lines": [{"who": "host", "said": "Why?"}, {"who": "guest", "said": "Because."}]},
    "urgency": {"text": "The server burns.", "label": "high"},
}
LEARNED = {"contract": "Rent.", "interview": "Because.", "urgency": "urgent"}


@pytest.mark.parametrize("file", PAGES)
def test_a_reference_page_is_what_make_docs_writes(file: str) -> None:
    written = (ROOT / "docs" / file).read_text("utf-8")
    assert written == PAGES[file](), "run `make docs`"


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_template_of_the_docs_learns_what_it_says(text: str, tmp_path: Path) -> None:
    name = yaml.safe_load(text)["name"]
    (tmp_path / f"{name}.yaml").write_text(text, "utf-8")
    write_rows(tmp_path / "rows.jsonl", [ROWS[name]] * 4)
    (tmp_path / "r.yaml").write_text(
        f"data: {{train: rows.jsonl, eval: 0, template: {name}.yaml}}\n", "utf-8"
    )
    done = tuner("data", "preview", "--recipe", "r.yaml", "-n", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (parts,) = [
        event["parts"]
        for line in done.stdout.splitlines()
        if "parts" in (event := json.loads(line))
    ]
    learned = "".join(part["text"] for part in parts if part["learned"])
    assert LEARNED[name] in learned
    assert ROWS[name].get("question", "Why?") not in learned


def test_every_example_of_the_reference_is_accepted() -> None:
    """Each key's example, in a recipe of its own, goes through the schema."""
    schema = json_schema()["$defs"]
    checked = 0
    for section, models in recipe.sections().items():
        for model in models:
            for key, entry in schema[model.__name__]["properties"].items():
                if key == "name" and section == "method":
                    continue
                part: dict[str, Any] = {key: example_of(section, key, entry)}
                if section == "method":
                    names = [row.name for row in METHODS.values() if row.options is model]
                    part["name"] = names[0]
                    if names[0] == "trainable_tokens":
                        part.setdefault("tokens", ["<law>"])
                if section == "compare":
                    part.setdefault("methods", [{"name": "lora"}])
                whole = {"data": {"train": ["rows.jsonl"]}}
                whole[section] = {**whole.get(section, {}), **part}
                text = yaml.safe_dump(whole)
                recipe.Recipe.model_validate(yaml.safe_load(text))
                checked += 1
    assert checked > 100
