"""The Modelfile that lets Ollama run a GGUF file: template, stop tokens, parameters.

Ollama's templates are Go's. Ours is read off the chat template itself: what it writes around each
turn of a chat whose turns are marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MARKS = {
    "system": "\u2402system\u2403",
    "user": "\u2402user\u2403",
    "assistant": "\u2402answer\u2403",
}


def text(
    file: str, tokenizer: Any, stops: Sequence[int], context: int, adapter: str | None = None
) -> str:
    """Return the Modelfile of a GGUF file next to it.

    Args:
        file: its name.
        tokenizer: with the chat template that was trained with.
        stops: ids that end an answer.
        context: longest sequence in tokens.
        adapter: name of a GGUF adapter that is put on it.
    """
    lines = [f"FROM ./{file}"]
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    found = template(tokenizer)
    if found is not None:
        body, system = found
        lines.append(f'TEMPLATE """{body}"""')
        if system:
            lines.append(f'SYSTEM """{system}"""')
    ends = [tokenizer.eos_token_id, *stops]
    for end in dict.fromkeys(tokenizer.convert_ids_to_tokens(int(stop)) for stop in ends):
        lines.append(f'PARAMETER stop "{end}"')
    lines.append(f"PARAMETER num_ctx {context}")
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n"


def template(tokenizer: Any) -> tuple[str, str] | None:
    """Return Go template and default system turn of a tokenizer's chat template.

    Returns:
        None if there is no chat template, or it does not put each turn between fixed texts;
        Ollama then reads the one inside the GGUF file.
    """
    user, answer, system = (_MARKS[role] for role in ("user", "assistant", "system"))
    asked = _chat(tokenizer, "user", prompt=True)
    answered = _chat(tokenizer, "user", "assistant")
    if user not in asked or answer not in answered:
        return None
    head, opening = asked.split(user, 1)
    # A space before the answer is the answer's: the model was asked to write it.
    start, found, rest = answered.partition(head + user + opening)
    if start or not found or rest.split(answer, 1)[0].strip():
        return None
    closing = answered.split(answer, 1)[1]
    reply = f"{{{{ .Response }}}}{closing}"
    with_system = _chat(tokenizer, "system", "user", prompt=True)
    if system not in with_system:
        # It knows no system turn: its text goes before the question.
        turn = "{{ if .System }}{{ .System }}\n\n{{ end }}"
        return f"{head}{turn}{{{{ .Prompt }}}}{opening}{reply}", ""
    before, after = with_system.split(system, 1)
    between = after.split(user, 1)[0]
    # Between an answer and the next question are the answer's closing and the question's opening.
    again = _chat(tokenizer, "user", "assistant", "user").partition(answer)[2].partition(user)[0]
    begin = again.removeprefix(closing)
    if not (again.startswith(closing) and between.endswith(begin) and head.endswith(begin)):
        return None
    ending = between.removesuffix(begin)
    own = head.removesuffix(begin)
    if own and not (own.startswith(before) and own.endswith(ending)):
        return None
    default = own[len(before) : len(own) - len(ending)]
    turn = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{ending}{{{{ end }}}}"
    body = f"{turn}{{{{ if .Prompt }}}}{begin}{{{{ .Prompt }}}}{opening}{{{{ end }}}}"
    return body + reply, default


def _chat(tokenizer: Any, *roles: str, prompt: bool = False) -> str:
    """Render a chat of marks, without a first token that llama.cpp adds itself; empty if the
    template refuses it."""
    messages = [{"role": role, "content": _MARKS[role]} for role in roles]
    try:
        text = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        )
    # A template is a program; what it raises is its own.
    except Exception:
        return ""
    first = tokenizer.bos_token_id
    adds = first is not None and tokenizer("a").input_ids[:1] == [first]
    return text.removeprefix(tokenizer.bos_token) if adds else text
