"""Commands under the names that other tools have for them."""

from __future__ import annotations

import re

_COMMANDS = {
    "tuner chat RUN": "ask complete",
    "tuner predict RUN --data FILE --output out.jsonl": "generate infer inference classify label "
    "batch",
    "tuner serve RUN": "api server webui deploy",
    "tuner sft RECIPE": "train training finetune fine-tune fit run qlora dora full",
    **{
        f"tuner rlhf RECIPE --set rlhf.algorithm={name}": name
        for name in ("dpo", "ppo", "grpo", "rloo", "kto", "orpo", "simpo", "cpo")
    },
    "tuner reward RECIPE": "rm reward-model",
    "tuner export RUN --format merged": "merge convert quantize save",
    "tuner data preview RECIPE": "preview",
    "tuner plan RECIPE": "validate check lint dry-run estimate",
    "tuner plan RECIPE --rehearse": "rehearse smoke-test",
    "tuner recipes copy legal my-project": "init new create quickstart",
    "tuner runs list": "list ls history eval evaluate score",
    "tuner doctor": "env info version",
}
_HERE = {word: command for command, words in _COMMANDS.items() for word in words.split()}
_MISSING = re.compile(r"No such command '([^']+)'")


def answer(message: str) -> tuple[str, str, str] | None:
    """Return the error for a command that other tools have; None: another one.

    Args:
        message: of the parser of the command line.
    """
    found = _MISSING.match(message)
    if found is None or (command := _HERE.get(found[1].lower())) is None:
        return None
    why = "every run scores its held-out rows" if command == "tuner runs list" else ""
    return f"there is no command '{found[1]}'", why or "here it has another name", f"run: {command}"
