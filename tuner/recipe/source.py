"""The sources of a recipe, its file and the flags, and the checks that need no schema."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.console.redact import looks_secret, redact
from tuner.errors import RecipeError
from tuner.recipe import bundled
from tuner.recipe.other_tools import answer as other_tools
from tuner.recipe.paths import keys
from tuner.recipe.schema import Recipe, keys_of, sections
from tuner.schema import strict_yaml
from tuner.schema.strict_yaml import Path as KeyPath
from tuner.schema.suggest import nearest

# A run keeps its resolved recipe under this name.
LOCK = "recipe.lock.yaml"
FIX = "correct the recipe; `tuner recipes schema` describes every key"
# Endings of files of rows.
_ROWS = frozenset((".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet", ".txt"))
# On the command line, where a shell completes them, these paths start at the current folder.
_PATH_KEYS = frozenset(key for key, kind in keys(Recipe) if kind != "base")


@dataclass
class RecipeSource:
    """Where each key of a recipe comes from: a line of the file, or a flag."""

    file: str
    lines: dict[KeyPath, int]
    flags: dict[KeyPath, str] = field(default_factory=dict)

    def override(self, path: KeyPath, flag: str) -> None:
        """Record that the key comes from the flag, and nothing below it from the file."""
        below = [known for known in (*self.lines, *self.flags) if known[: len(path)] == path]
        for known in below:
            self.lines.pop(known, None)
            self.flags.pop(known, None)
        self.flags[path] = flag

    def place(self, path: KeyPath) -> str:
        """Return `file:line`, or the flag, of the key or the nearest key above it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.flags:
                return self.flags[path[:end]]
            if path[:end] in self.lines:
                return f"{self.file}:{self.lines[path[:end]]}"
            if end == len(path) and (below := self._flag_below(path)):
                return below
        return f"{self.file}:1"

    def origin(self, path: KeyPath, default: str = "default") -> str:
        """Return the origin of a key's value as the plan shows it."""
        if flag := self._flag_below(path):
            return flag.split()[0]
        return f"recipe line {self.lines[path]}" if path in self.lines else default

    def line(self, path: KeyPath) -> int:
        """Return the line of the key or the nearest key above it; 0: given by a flag."""
        place = self.place(path)
        return int(place.rpartition(":")[2]) if place.startswith(f"{self.file}:") else 0

    def _flag_below(self, path: KeyPath) -> str | None:
        for known, flag in self.flags.items():
            if known[: len(path)] == path:
                return flag
        return None


def to_finish(run: Path, record: Mapping[str, Any]) -> str:
    """Return how a run that is not done is finished, for messages."""
    verb = record.get("plan", {}).get("verb")
    if verb is None or not (run / LOCK).is_file():
        return "finish it: give the command that began it again, with --resume"
    return f"finish it: tuner {verb} {shlex.quote(str(run / LOCK))} --resume"


def find(path: Path) -> Path:
    """Return the recipe's file: the named one, or else the bundled one of that name."""
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(
            f"{path} is a folder", "a recipe is one YAML file", f"name the file: {path}/NAME.yaml"
        )
    if path.exists():
        raise RecipeError(f"{path} is not a regular file", "a recipe is one YAML file", FIX)
    known = bundled.files("recipes")
    if str(path) in known:
        return known[str(path)]
    near = nearest(path.stem, known)
    hint = f"did you mean the bundled recipe '{near}'?" if near else "see `tuner recipes list`"
    raise RecipeError(f"no recipe {redact(str(path))}", "there is no such file", hint)


def read(file: Path) -> bytes:
    """Return the file's bytes; refuse a file too large for a recipe."""
    try:
        if file.stat().st_size > strict_yaml.MAX_BYTES:
            if file.suffix.lower() in _ROWS:
                raise _of_rows(file)
            raise RecipeError(f"{file} is not a recipe", "it is larger than 1 MiB", FIX)
        return file.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"{file} cannot be read",
            error.strerror or str(error),
            f"make it readable: chmod u+r {file}",
        ) from None


def parse(content: bytes, file: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the recipe as a tree of keys, and the line of every key.

    Raises:
        RecipeError: it is no YAML file with sections.
    """
    try:
        tree, lines = _parse(content, file)
        rows = not tree.keys() & {*sections()}
    except RecipeError:
        if file.suffix.lower() not in _ROWS:
            raise
        rows = True
    if rows and file.suffix.lower() in _ROWS:
        raise _of_rows(file)
    return tree, lines


def _of_rows(file: Path) -> RecipeError:
    words = [str(file), "--write", f"{file.stem}.yaml"]
    return RecipeError(
        f"{file} is no recipe, but looks like rows",
        "a recipe is a YAML file that names the rows: data: {train: FILE}",
        f"write one: tuner data recognise {shlex.join(words)}",
    )


def _parse(content: bytes, file: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"{file}:{line}: the text is {encoding}",
            f"byte {error.start} is not valid UTF-8",
            "save the recipe as UTF-8",
        ) from None
    try:
        tree, lines = strict_yaml.parse(text)
    except strict_yaml.YamlProblem as error:
        raise RecipeError(
            f"{file} is not a valid recipe",
            redact(f"{file}:{error.line}:{error.column}: {error.message}"),
            f"correct line {error.line}",
        ) from None
    if tree is None:
        raise RecipeError(
            f"{file} is empty",
            "a recipe names at least data.train",
            "write into it, for example: data: {train: rows.jsonl}; or see `tuner recipes list`",
        )
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{file} is not a recipe", "expected sections: model, data, method, ...", FIX
        )
    return tree, lines


def refuse_secrets(
    tree: dict[str, Any], overrides: Sequence[str], output: str | None, source: RecipeSource
) -> None:
    """Refuse a recipe that contains what looks like a secret: it is stored with its run."""
    places = [
        redact(f"{source.place(path)}: {path[-1]}: looks like a secret")
        for path, text in _texts(tree, ())
        if looks_secret(text)
    ]
    flags = [*(f"--set {text}" for text in overrides), *([f"--output={output}"] if output else [])]
    places += [
        redact(f"{flag.partition('=')[0]}: looks like a secret")
        for flag in flags
        if looks_secret(flag)
    ]
    if places:
        raise RecipeError(
            "a recipe must not hold secrets: it is stored with the run",
            problems=places,
            fix="remove and revoke it; pass tokens in the environment, such as HF_TOKEN",
        )


def _texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield every key and every text below a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key), key
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def apply(
    tree: dict[str, Any], overrides: Sequence[str], source: RecipeSource, output: str | None
) -> list[str]:
    """Put `--set` and `--output` on top of the file's tree; return the problems."""
    problems = []
    for text in overrides:
        key, equals, given = text.partition("=")
        flag, path = f"--set {text}", tuple(key.strip().split("."))
        problem = None if equals else "write it as section.key=value"
        if equals and len(path) < 2:
            homes = [name for name in sections() if path[0] in keys_of(name)]
            elsewhere = other_tools.place(path[0]) or "section.key"
            full = [f"{home}.{path[0]}" for home in homes] or [elsewhere.replace(": ", "=")]
            written = [each if "=" in each else f"{each}=value" for each in full]
            problem = f"write it as {' or '.join(written)}"
        if problem is None:
            problem = _put(tree, path, given, flag, source)
        if problem:
            problems.append(f"{flag}: {problem}")
    if output is not None:
        if source.origin(("run", "output")) == "--set":
            problems.append("--output: run.output is also given by --set; keep one of them")
        run = tree.get("run")
        tree["run"] = {**(run if isinstance(run, dict) else {}), "output": output}
        source.override(("run", "output"), f"--output {output}")
    return problems


def _put(
    tree: dict[str, Any], path: tuple[str, ...], given: str, flag: str, source: RecipeSource
) -> str | None:
    try:
        value = strict_yaml.parse_value(given)
    except strict_yaml.YamlProblem as error:
        return f"not a YAML value ({error.message}); quote it"
    for name in path[:-1]:
        if tree.get(name) is None:
            tree[name] = {}
        if not isinstance(tree[name], dict):
            return f"'{name}' is a value, not a section with keys"
        tree = tree[name]
    tree[path[-1]] = _from_here(value, path)
    source.override(path, flag)
    return None


def _from_here(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_from_here(item, path) for item in value]
    if isinstance(value, dict):
        return {key: _from_here(item, (*path, key)) for key, item in value.items()}
    if path in _PATH_KEYS and isinstance(value, str) and strict_yaml.number(value) is None:
        here = Path(value).expanduser()
        return str(here.resolve()) if here.suffix and here.is_file() else value
    return value
