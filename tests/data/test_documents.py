"""A folder of documents as a source of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_rows
from tests.data.test_read import prepared
from tests.tokenizers import make_tokenizer
from tuner.errors import DataError
from tuner.recipe import load
from tuner.run import content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two documents, one of them in a folder of its own; and what is none."""
    docs = tmp_path / "docs"
    (docs / "leases").mkdir(parents=True)
    (docs / ".hidden").mkdir()
    (docs / "memo.md").write_text("# Memo\n\nThe court is open.\n")
    (docs / "leases/first.txt").write_text("The tenant pays.\nThe landlord repairs.\n")
    (docs / "leases/empty.txt").write_text("\n")
    (docs / ".hidden/notes.txt").write_text("Not for training.")
    return tmp_path


def test_each_document_is_a_row(folder: Path) -> None:
    made = prepared(folder, "docs", long="truncate")
    assert [row.row for row in made.train] == ["docs:2 leases/first.txt", "docs:3 memo.md"]
    texts = [make_tokenizer("chatml").decode(row.input_ids) for row in made.train]
    assert "The tenant pays.\nThe landlord repairs." in texts[0]
    assert made.report["files_not_read"] == []


def test_long_documents_become_pieces_and_lose_nothing(folder: Path) -> None:
    words = [f"w{number}" for number in range(600)]
    (folder / "docs/memo.md").write_text(" ".join(words))
    made = prepared(folder, "docs", max_length=128)
    text = "".join(make_tokenizer("chatml").decode(row.input_ids) for row in made.train)
    assert [word for word in words if word not in text] == []


def test_what_is_no_document_is_named(folder: Path) -> None:
    (folder / "docs/scan.pdf").write_bytes(b"%PDF")
    made = prepared(folder, "docs")
    assert made.report["files_not_read"] == ["docs: 1 file not read: scan.pdf"]
    write_rows(folder / "docs/rows.jsonl", [{"text": "a row"}])
    with pytest.raises(DataError, match="documents and files with rows"):
        prepared(folder, "docs")


def test_a_document_in_another_encoding_is_a_bad_row_with_its_name(folder: Path) -> None:
    (folder / "docs/leases/second.txt").write_bytes("Café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"second\.txt: not UTF-8") as caught:
        prepared(folder, "docs")
    assert "encoding: cp1252" in caught.value.fix
    made = prepared(folder, "docs", train=[{"source": "docs", "encoding": "cp1252"}])
    assert len(made.train) == 3
    (folder / "docs/leases/second.txt").write_text("Café\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"second\.txt is encoded in UTF-16"):
        prepared(folder, "docs")


@pytest.mark.parametrize("change", ["text", "name", "more"])
def test_a_changed_document_is_another_run(folder: Path, change: str) -> None:
    (folder / "r.yaml").write_text("{model: {base: x}, data: {train: docs}}")
    memo = folder / "docs/memo.md"

    def digests() -> tuple[str, str]:
        loaded = load.load(folder / "r.yaml", (), "sft")
        return content.content_sha256(loaded), prepared(folder, "docs").report["files"][0]["sha256"]

    before = digests()
    assert digests() == before
    if change == "text":
        memo.write_text("# Memo\n\nThe court is shut.\n")
    elif change == "name":
        memo.rename(memo.with_name("letter.md"))
    else:
        (folder / "docs/more.txt").write_text("More.")
    assert all(now != then for now, then in zip(digests(), before, strict=True))
