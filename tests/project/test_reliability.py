"""The catalogue of failures names tests that exist, and every id that a test names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.reliability import CATALOGUE, TESTS, missing, problems

ROW = "| M01 | the stop token is masked | it is learned | {} |\n"
TEST = 'def test_it_stops() -> None:\n    """M01"""\n'


def test_the_catalogue_and_the_tests_agree() -> None:
    assert problems(CATALOGUE.read_text("utf-8"), TESTS) == []


def test_the_table_of_gpus_names_tests_that_exist(tmp_path: Path) -> None:
    text = (TESTS / "gpu/README.md").read_text("utf-8")
    assert missing(text, TESTS) == []
    assert text.count(".py::test_") > 30
    (tmp_path / "test_a.py").write_text(TEST, "utf-8")
    assert missing("`test_a.py::test_it_stops` `test_a.py::test_gone`", tmp_path) == [
        "test_a.py::test_gone"
    ]


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        (ROW.format("`test_a.py::test_it_stops`"), TEST, []),
        (ROW.format("no test"), "", []),
        ("", TEST, ["test_a.py::test_it_stops: M01 has no row"]),
        ("", '"""M01 to M02."""\n', ["test_a.py::: M01 has no row", "test_a.py::: M02 has no row"]),
        ("", "def test_loss_n05() -> None: ...\n", ["test_a.py::test_loss_n05: N05 has no row"]),
        (ROW.format("no test"), TEST, ["M01: its row does not name test_a.py::test_it_stops"]),
        (ROW.format(""), "", ["M01: there is no test ''"]),
        (
            ROW.format("`test_a.py::test_gone`"),
            "",
            ["M01: there is no test 'test_a.py::test_gone'"],
        ),
        (ROW.format("no test") * 2, "", ["M01: has two rows"]),
        (
            ROW.format("`test_a.py::test_m01_it_stops`"),
            "def test_m01_it_stops() -> None: ...\n",
            ["test_a.py::test_m01_it_stops: begins with an id; say what it checks"],
        ),
    ],
)
def test_each_disagreement_is_named(row: str, code: str, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(code, "utf-8")
    assert problems(row, tmp_path) == said
