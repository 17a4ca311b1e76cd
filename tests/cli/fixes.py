"""A command that fails, and how what its error says is followed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cli.command import Done, tuner

RECIPE = "r.yaml"
Rows = list[dict[str, Any]]


@dataclass
class Work:
    """A folder with a recipe and rows, and the command that is given there."""

    folder: Path
    base: Path
    arguments: list[str]

    @property
    def recipe(self) -> Path:
        return self.folder / RECIPE

    def run(self) -> Done:
        return tuner(*self.arguments, cwd=self.folder)

    def put(self, key: str, value: Any) -> None:
        """Set a key of the recipe; None: leave it out."""
        tree = yaml.safe_load(self.recipe.read_text())
        *sections, name = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        if value is None:
            del inner[name]
        else:
            inner[name] = value
        self.recipe.write_text(yaml.safe_dump(tree, sort_keys=False))

    def get(self, key: str) -> Any:
        tree = yaml.safe_load(self.recipe.read_text())
        for name in key.split("."):
            tree = tree[name]
        return tree

    def swap(self, wrong: str, right: str) -> None:
        """Write one word in place of another, in the recipe and in the command."""
        wrong = wrong.replace("BASE", str(self.base))
        before = self.recipe.read_text(), list(self.arguments)
        self.recipe.write_text(before[0].replace(wrong, right))
        self.arguments = [each.replace(wrong, right) for each in before[1]]
        assert (self.recipe.read_text(), self.arguments) != before, (wrong, right)


Follow = Callable[[Work, str], None]


@dataclass(frozen=True)
class Fault:
    """What is wrong, what is said, and how that is followed.

    Attributes:
        code: the exit code.
        said: what the error must name, as a regular expression.
        follow: does what the error says, as printed.
        keys: of the recipe, dotted; None leaves one out.
        arguments: of the command.
        rows: of the training file.
        files: further files, by name.
    """

    code: int
    said: str
    follow: Follow
    keys: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("plan", RECIPE)
    rows: Rows | None = None
    files: Mapping[str, str | bytes] = field(default_factory=dict)


def fix(said: str) -> str:
    """Return what an error says to do."""
    return said.partition("\nfix: ")[2]


def sets(number: int = 0, among: str = "") -> Follow:
    """Set the key that the fix writes out: `data.max_length: 64`; of several ways, one."""

    def follow(work: Work, said: str) -> None:
        pattern = r"\b([a-z]+\.[a-z_]+): (\[[^\]]*\]|[^\s,;()?]+)"
        found = re.findall(pattern, fix(said)) or re.findall(f"set {pattern}", said)
        key, value = [each for each in found if among in each[0]][number]
        work.put(key, yaml.safe_load(value))

    return follow


def leaves_out(work: Work, said: str) -> None:
    """Leave out the key that the error says to leave out."""
    found = re.search(r"leave (?:out )?(\w+\.\w+)", said)
    assert found, said
    work.put(found[1], None)


def without(key: str, words: str) -> Follow:
    """Leave out a key, where the fix says so in words."""

    def follow(work: Work, said: str) -> None:
        assert words in said, said
        work.put(key, None)

    return follow


def given(key: str, words: str, value: Any = None) -> Follow:
    """Set a key to what a pattern finds in the error, or to a value where it names the kind."""

    def follow(work: Work, said: str) -> None:
        found = re.search(words, said)
        assert found, said
        work.put(key, yaml.safe_load(found[1]) if value is None else value)

    return follow


def meant(wrong: str) -> Follow:
    """Write what the error takes to be meant."""

    def follow(work: Work, said: str) -> None:
        found = re.search(
            r"(?:[Dd]id you mean|similar: \S+ ->) (?:the bundled recipe )?'?([^'?\s,]+)", said
        )
        assert found, said
        work.swap(wrong, found[1])

    return follow


def moves(old: str) -> Follow:
    """Give a key the place that the error names: `another tool's name for`, `belongs under`."""

    def follow(work: Work, said: str) -> None:
        named = re.search(
            r"another tool's name for ([a-z_.]+)(?:: (.+?))?(?: \(|;| and |$)", said, re.M
        )
        under = re.search(r"belongs under (\w+)", said)
        was = work.get(old)
        work.put(old, None)
        if named:
            work.put(named[1], yaml.safe_load(named[2]) if named[2] else was)
        else:
            assert under, said
            work.put(f"{under[1]}.{old.rpartition('.')[2]}", was)

    return follow


def runs(*further: str) -> Follow:
    """Give the command that the fix writes out."""

    def follow(work: Work, said: str) -> None:
        found = re.search(
            r"(?:run: |folder: |: )?tuner ([^;\n]*?)(?:, or .*|; .*)?$", fix(said).strip()
        )
        assert found, said
        words = {
            "FILE": "train.jsonl",
            "RECIPE": RECIPE,
            "NAME": "legal",
            "FOLDER": "elsewhere",
            "RUN": "runs/one",
        }
        work.arguments = [words.get(each, each) for each in found[1].split()] + [*further]

    return follow


def adds(pattern: str, *literal: str) -> Follow:
    """Add options that the fix writes out to the command."""

    def follow(work: Work, said: str) -> None:
        found = re.search(pattern, fix(said))
        assert found, said
        work.arguments += [*found[1].split(), *literal]

    return follow


def edits(name: str, change: Callable[[bytes], bytes], words: str) -> Follow:
    """Change a file as the error says in words."""

    def follow(work: Work, said: str) -> None:
        assert re.search(words, said), said
        file = work.folder / name
        file.write_bytes(change(file.read_bytes()))

    return follow


def prepared(fault: Fault, folder: Path, base: Path) -> Work:
    """Write the recipe and the files of a fault."""
    work = Work(folder, base, [each.replace("BASE", str(base)) for each in fault.arguments])
    rows = [{"instruction": f"Say {n}.", "output": f"It is {n}."} for n in range(16)]
    write_rows(folder / "train.jsonl", rows if fault.rows is None else fault.rows)
    (folder / "eval.jsonl").write_text(json.dumps({"instruction": "Say it.", "output": "It."}))
    tree: dict[str, Any] = {"model": {"base": str(base)}, "data": {"train": "train.jsonl"}}
    work.recipe.write_text(yaml.safe_dump(tree))
    for key, value in {"train.batch_size": 4, **fault.keys}.items():
        work.put(key, value.replace("BASE", str(base)) if isinstance(value, str) else value)
    for model in ("org/tiny", "runs/one/merged"):
        (folder / model).parent.mkdir(parents=True, exist_ok=True)
        (folder / model).symlink_to(base)
    record = {"format": 1, "tuner": "0.1.0", "status": "done"}
    (folder / "runs/one/run.json").write_text(json.dumps(record))
    for name, content in fault.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return work


def follows(fault: Fault, folder: Path, base: Path) -> None:
    """The command fails as it should, and goes on once what its error says is done as printed."""
    work = prepared(fault, folder, base)
    failed = work.run()
    assert failed.returncode == fault.code, failed.stderr + failed.stdout
    assert re.search(fault.said, failed.stderr), failed.stderr
    fault.follow(work, failed.stderr)
    followed = work.run()
    assert followed.returncode == 0, f"{failed.stderr}\nafter it was followed:\n{followed.stderr}"


def write_rows(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
