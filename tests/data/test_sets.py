"""What the files of public sets are taken for: the table of docs/templates.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tools import sets_table


@pytest.mark.slow
def test_the_table_of_public_sets_is_in_sync(test_data: Path) -> None:
    """Each file plans as it is, or each recipe of its error reads it."""
    page = sets_table.PAGE.read_text("utf-8")
    assert sets_table.with_table(page, sets_table.table(test_data)) == page


def test_a_recipe_that_does_not_read_the_rows_is_found(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    file = tmp_path / "set" / "a.jsonl"
    rows = [{"q": f"Where is saw {n}?", "uses": [f"in shed {n}"]} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert "completion: uses.0" in sets_table.table(tmp_path)
    line = "{train: a.jsonl, template: prompt_completion, columns: {prompt: q, completion: u}}"
    with pytest.raises(AssertionError):
        sets_table.followed(file, line)
