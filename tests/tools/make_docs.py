"""Write docs/recipe.md, docs/cli.md and the table of docs/other-tools.md: `make docs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer.main
import yaml

from tests.tools import names_table
from tuner import cli
from tuner.methods import METHODS
from tuner.recipe import schema as recipe
from tuner.recipe.json_schema import json_schema

ROOT = Path(__file__).resolve().parents[2]
WORDS = yaml.safe_load(Path(__file__).with_name("recipe_docs.yaml").read_text("utf-8"))
SECTIONS = {
    "model": "The base model.",
    "data": "The rows and how they become examples. The only required section.",
    "method": "Which parameters are trained. `name` selects one of the "
    "[methods](../README.md#methods); the last column lists the methods that have the key.",
    "train": "Optimizer and learning rate schedule.",
    "eval": "Scores on held-out rows, before, while and after training.",
    "export": "What is written at the end of a run, each checked in a fresh process.",
    "run": "Where and how to run.",
    "reward": "For `tuner reward`.",
    "rlhf": "For `tuner rlhf`.",
    "ppo": "For `rlhf.algorithm: ppo`.",
    "grpo": "For `rlhf.algorithm: grpo`.",
    "dpo": "For `rlhf.algorithm: dpo`.",
    "kto": "For `rlhf.algorithm: kto`.",
    "simpo": "For `rlhf.algorithm: simpo`.",
    "cpo": "For `rlhf.algorithm: cpo`.",
    "compare": "For `tuner compare`.",
}


def recipe_page() -> str:
    """Return docs/recipe.md."""
    schema = json_schema()
    lines = [
        "# The recipe, key by key",
        "",
        "Generated from the schema by `make docs`. `tuner recipes schema` prints the same as a "
        "JSON Schema for an editor; `tuner plan --recipe FILE` shows each value and its origin. "
        "Any key can be set on the command line: `--set train.epochs=2`. Unknown keys are errors.",
    ]
    for name, about in SECTIONS.items():
        lines += ["", f"## {name}", "", about, ""]
        if name == "method":
            lines += _methods(schema)
            continue
        (model,) = recipe.sections()[name]
        lines += _head()
        properties = schema["$defs"][model.__name__]["properties"]
        required = schema["$defs"][model.__name__].get("required", [])
        for key, entry in properties.items():
            lines.append(_row(schema, name, key, entry, key in required))
        if name == "data":
            lines += ["", f"A mapping in `train` has {_keys(schema, 'SourceSection')}."]
        if name == "eval":
            lines += ["", f"A mapping in `stop` has {_keys(schema, 'Stop')}."]
    lines += _rewards(schema)
    return "\n".join(lines) + "\n"


def _head(*more: str) -> list[str]:
    columns = ["key", "type", "default", "meaning", "example", *more]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]


def _row(
    schema: dict[str, Any],
    section: str,
    key: str,
    entry: dict[str, Any],
    required: bool,
    *more: str,
) -> str:
    default = "required" if required else _default(section, key, entry)
    example = _yaml(example_of(section, key, entry))
    cells = (f"`{key}`", _type(schema, entry), default, entry["description"], f"`{key}: {example}`")
    return f"| {' | '.join(_cell(cell) for cell in (*cells, *more))} |"


def example_of(section: str, key: str, entry: dict[str, Any]) -> Any:
    """Return the example of a key; of one that methods define differently, one that fits."""
    value = WORDS["examples"][section][key]
    allowed = entry.get("enum", [entry["const"]] if "const" in entry else [value])
    if section == "method" and value not in allowed:
        return allowed[-1]
    if section == "method" and entry.get("type") == "integer" and isinstance(value, list):
        return len(value)
    return value


def _default(section: str, key: str, entry: dict[str, Any]) -> str:
    value = entry.get("default", {})
    said = {"[]": "none", "{}": "none", "null": "none"}.get(json.dumps(value), f"`{_yaml(value)}`")
    decided = WORDS["decided"].get(f"{section}.{key}")
    by_itself = value in ("auto", ["auto"], None) and decided
    return f"{said}: {decided}" if by_itself and said != "none" else decided if by_itself else said


def _type(schema: dict[str, Any], entry: dict[str, Any]) -> str:
    if "$ref" in entry:
        return "mapping"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    for many in ("anyOf", "oneOf"):
        if many in entry:
            each = [_type(schema, one) for one in entry[many] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(each))
    kind = entry.get("type", "mapping")
    if kind == "array":
        items = entry.get("items", {})
        if "anyOf" in items:
            return "list of these"
        return "list of rewards, below" if "oneOf" in items else f"list of {_type(schema, items)}"
    if kind == "object":
        return "mapping"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(
        kind, kind
    ) + (_bounds(entry))


def _bounds(entry: dict[str, Any]) -> str:
    words = []
    for names, said in (
        (("minimum", "ge"), "from {}"),
        (("exclusiveMinimum", "gt"), "above {}"),
        (("maximum", "le"), "to {}"),
        (("exclusiveMaximum", "lt"), "below {}"),
    ):
        words += [said.format(f"{entry[name]:g}") for name in names if name in entry]
    return f" {', '.join(words)}" if words else ""


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _methods(schema: dict[str, Any]) -> list[str]:
    rows: dict[str, list[str]] = {}
    for method in METHODS.values():
        entries = schema["$defs"][method.options.__name__]
        for key, entry in entries["properties"].items():
            if key != "name":
                row = _row(schema, "method", key, entry, key in entries.get("required", []))
                rows.setdefault(row, []).append(method.name)
    lines = _head("methods")
    for row, names in rows.items():
        lines.append(f"{row} {', '.join(f'`{name}`' for name in names)} |")
    return [*lines, "", f"A stage has {_keys(schema, 'StageOptions')}."]


def _keys(schema: dict[str, Any], model: str) -> str:
    """The keys of a mapping, in one sentence."""
    entries = schema["$defs"][model]["properties"].items()
    return "; ".join(
        f"`{key}` ({_type(schema, each)}): {each['description']}" for key, each in entries
    )


def _rewards(schema: dict[str, Any]) -> list[str]:
    lines = ["", "## Rewards", "", "The entries of `rlhf.reward`.", ""]
    lines += ["| reward | keys | score |", "|---|---|---|"]
    items = schema["$defs"]["RlhfSection"]["properties"]["reward"]["items"]["oneOf"]
    for item in items:
        entry = schema["$defs"][item["$ref"].rpartition("/")[2]]
        keys = [
            f"`{key}` ({_type(schema, one)}): {one['description']}"
            for key, one in entry["properties"].items()
        ]
        rule = entry["properties"].get("rule", {}).get("const")
        name = (
            f"rule: {rule}"
            if rule
            else next(k for k in ("model", "function") if k in entry["properties"])
        )
        cells = (f"`{name}`", "<br>".join(keys), entry["description"].replace("\n", " "))
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return lines


def cli_page() -> str:
    """Return docs/cli.md."""
    lines = [
        "# The command line",
        "",
        "Generated from the commands by `make docs`; `tuner COMMAND --help` shows the same.",
    ]
    for name, one in _commands("tuner", typer.main.get_command(cli.app)):
        lines += ["", f"## {name}", "", " ".join((one.help or "").split()), ""]
        context = one.context_class(one, info_name=name)
        usage = " ".join(one.collect_usage_pieces(context))
        lines += ["```text", f"{name} {usage}", "```", ""]
        options = [each for each in one.params if getattr(each, "help", None)]
        if options:
            lines += ["| option | meaning |", "|---|---|"]
        for each in options:
            takes = "" if getattr(each, "is_flag", False) else each.metavar or each.name.upper()
            words = f"{each.opts[0]} {takes}".strip() if each.opts[0][0] == "-" else takes
            meaning = " ".join(str(each.help).split())
            lines.append(f"| `{_cell(words)}` | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _commands(name: str, group: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, one in group.commands.items():
        inner = hasattr(one, "commands")
        found += _commands(f"{name} {key}", one) if inner else [(f"{name} {key}", one)]
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"recipe.md": recipe_page, "cli.md": cli_page, "other-tools.md": names_table.page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (ROOT / "docs" / file).write_text(page(), "utf-8")
