"""docs/data-files.md: its recipes read the rows that it shows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tokenizers import make_tokenizer
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.recipe import load

PAGE = (Path(__file__).parents[2] / "docs/data-files.md").read_text("utf-8")


def prepared(folder: Path, recipe: str) -> Prepared:
    (folder / "r.yaml").write_text(recipe, "utf-8")
    loaded = load.load(folder / "r.yaml", ["data.eval=0"], "sft")
    return SftData(Inputs(loaded.recipe.data, make_tokenizer("chatml"), folder, 7, 512)).prepare()


def test_the_recipes_read_the_rows(tmp_path: Path) -> None:
    pairs, forms = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (line,) = re.findall(r"Lines such as `(.*?)` in `metals.txt`", PAGE)
    (tmp_path / "metals.txt").write_text(f"{line}\nlead || Lead is heavy.\n")
    made = prepared(tmp_path, pairs)
    assert [each.row for each in made.train] == ["metals.txt:1", "metals.txt:2"]
    assert "Tin is a soft metal." in make_tokenizer("chatml").decode(made.train[0].input_ids)
    (row,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "forms.jsonl").write_text(row)
    made = prepared(tmp_path, forms)
    named = re.findall(r"`(forms\.jsonl:1 .*?)`", PAGE)
    assert [each.row for each in made.train] == named
    assert made.report["ignored_columns"] == ["form"]
