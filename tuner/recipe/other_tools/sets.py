"""Data sets as other tools name them: a path with a type, and the columns of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.recipe.other_tools.row import Given, Here, empty

# Axolotl's types, up to the first dot or colon, and the data template of each.
_TYPES = {
    "alpaca": "instruction",
    "alpaca_w_system": "instruction",
    "alpaca_chat": "instruction",
    "alpaca_instruct": "instruction",
    "completion": "text",
    "pretrain": "text",
    "context_qa": "qa_with_context",
}
# Types whose rows are recognised by their columns, as well as by a name.
_SEEN = (
    "chat_template",
    "sharegpt",
    "bradley_terry",
    "chatml",
    "llama3",
    "messages",
    "passthrough",
)
_CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat")
# What Axolotl calls a column, and what the data template here calls it.
_FIELDS = {
    "field": "text",
    "text_column": "text",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field_system": "system",
    "field_prompt": "prompt",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_tools": "tools",
}
_ROLES = ({"role": "role", "content": "content"}, {"role": "from", "content": "value"})
_READ = {
    *("path", "type", "data_files", "ds_type", "split", "name", "field_messages"),
    *("message_property_mappings", "message_field_role", "message_field_content", "roles"),
    *("roles_to_train", "train_on_eos", "train_on_eot", "trust_remote_code", "system_prompt"),
    *("field_thinking", "template_thinking_key", *_FIELDS),
}


def sources(place: str, given: Given) -> Here:
    """Read the data sets: names with commas, paths, or Axolotl's mappings."""
    value = given.value
    if isinstance(value, str):
        names = [each.strip() for each in value.split(",")]
        return Here({place: names[0] if len(names) == 1 else names}, "files with rows")
    items = value if isinstance(value, list) else [value]
    made: list[Any] = []
    for each in items:
        made += source(each)[0] if isinstance(each, Mapping) else [str(each)]
    return Here({place: made[0] if len(made) == 1 and isinstance(made[0], str) else made})


def source(item: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """Return the items of `data.train` that a data set of Axolotl comes to, and what they lack."""
    kind, columns = item.get("type"), dict[str, str]()
    notes: list[str] = []
    keys: dict[str, Any] = {}
    fields = {**item, **kind} if isinstance(kind, Mapping) else dict(item)
    if isinstance(kind, Mapping):
        keys["template"] = "instruction" if "field_instruction" in kind else None
        worded = {"format", "no_input_format", "prompt_format", "chosen_format", "system_format"}
        if worded & kind.keys():
            notes.append("its format is not added to the rows: write a data template")
        keys["system"] = kind.get("system_prompt") or None
    elif not empty(kind):
        keys["template"] = _template(str(kind), notes)
    for name, column in _FIELDS.items():
        if isinstance(own := fields.get(name), str) and own != column:
            columns[column] = own
    chat = item.get("field_messages")
    if isinstance(chat, str) and chat not in _CHATS:
        keys["template"], columns["messages"] = "chat", chat
    keys["columns"] = columns
    notes += _other(item)
    files = item.get("data_files") or item.get("path")
    names = files if isinstance(files, list) else [files]
    kept = {name: each for name, each in keys.items() if each}
    return [{"source": str(each), **kept} if kept else str(each) for each in names], notes


def _template(kind: str, notes: list[str]) -> str | None:
    head = kind.replace(":", ".").partition(".")[0]
    if head.startswith("alpaca"):
        notes.append("Alpaca's headings (### Instruction:) are not written; rows become turns")
    if head not in _TYPES and head not in _SEEN:
        notes.append(f"there is no data template '{kind}': the columns decide")
    return _TYPES.get(head)


def _other(item: Mapping[str, Any]) -> list[str]:
    """Return what a data set asks for that is not there."""
    notes = []
    if item.get("split") not in (None, "", "train"):
        notes.append(f"split '{item['split']}': name a file with these rows")
    if not empty(item.get("name")):
        notes.append(f"subset '{item['name']}': name a file with its rows")
    roles = item.get("message_property_mappings") or {
        "role": item.get("message_field_role") or "role",
        "content": item.get("message_field_content") or "content",
    }
    if isinstance(roles, Mapping) and {n: roles.get(n) for n in _ROLES[0]} not in _ROLES:
        notes.append(f"turns with {', '.join(map(str, roles.values()))} are not read")
    learned = item.get("roles_to_train")
    if not empty(learned) and learned not in (["assistant"], ["gpt"], ["assistant", "gpt"]):
        notes.append(f"roles_to_train: set data.learn: {{roles: {learned}}}".replace("'", ""))
    if str(item.get("train_on_eos") or "turn") != "turn":
        notes.append("the end of every learned answer is learned, whatever train_on_eos says")
    named = item.get("roles") or {}
    odd = isinstance(named, Mapping) and [name for name, each in named.items() if each != [name]]
    if odd:
        notes.append(f"roles {', '.join(map(str, odd))}: the usual names of roles are read")
    kept = [name for name, each in item.items() if name not in _READ and not empty(each)]
    return [*notes, *(f"{name} has no key here" for name in kept)]
