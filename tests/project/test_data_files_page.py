"""docs/data-files.md: its recipes read the rows that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.conftest import rows
from tests.stand_in_hub import reach, running
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
    pairs, *_, forms = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
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


def test_the_recipes_read_rows_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files as the page says: by the card, by name, and one of several."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    _, short, long, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    parquet.write_table(arrow.Table.from_pylist(rows(9)), tmp_path / "rows.parquet")
    table = (tmp_path / "rows.parquet").read_bytes()
    card = (
        b"---\nconfigs:\n- config_name: lyrics\n  data_files:\n"
        b"  - {split: train, path: a.parquet}\n  - {split: test, path: b.parquet}\n---\n"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    songs = {"README.md": card, "a.parquet": table, "b.parquet": table}
    with running() as hub:
        reach(hub, monkeypatch)
        commit = hub.add("some-lab/songs", songs, "datasets")
        hub.repos["datasets", "some-lab/songs"].branches["v2"] = commit
        two = {f"data/train-0000{n}.parquet": table for n in range(2)}
        hub.add("some-lab/more", two, "datasets")
        (tmp_path / "r.yaml").write_text(short, "utf-8")
        assert load.load(tmp_path / "r.yaml", [], "sft").recipe.data.eval == "some-lab/songs:test"
        assert [file["hub"]["file"] for file in prepared(tmp_path, short).report["files"]] == [
            "a.parquet"
        ]
        files = prepared(tmp_path, long).report["files"]
    assert [file["hub"]["file"] for file in files] == ["a.parquet", "data/train-00001.parquet"]
    assert files[0]["hub"]["revision"] == commit
