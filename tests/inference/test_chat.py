"""`tuner chat`: the conversation, its commands, a pipe and a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from tests.inference.conversation import ROOT, Done, Make, alone, chat, opened, until_eos, written
from tuner.console import formatting
from tuner.console.console import Console
from tuner.data.tokens.conversation import Prompts
from tuner.errors import DataError
from tuner.inference.chat import Chat
from tuner.inference.engine import Inference
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load


def test_drawn_answers_follow_the_seed(bases: Callable[..., Path]) -> None:
    texts = [
        chat("--base", bases("llama"), "--temperature", 1.5, "--seed", seed).stdout
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


class Shown(Console):
    """A console that keeps what it is told."""

    def __init__(self, typed: str = "") -> None:
        super().__init__()
        self.lines = iter(typed.splitlines())
        self.warnings: list[str] = []

    def ask(self, prompt: str) -> str | None:
        return next(self.lines, None)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def conversation(found: Inference, typed: str = "", **further: Any) -> tuple[Chat, Shown]:
    shown = Shown(typed)
    return Chat(found, shown, 6, **further), shown


def test_the_history_reaches_the_prompt(bases: Callable[..., Path]) -> None:
    found = opened(bases("llama"))
    talk, _ = conversation(found, system="Be short.")
    first, second = talk.say("What is rent?"), talk.say("And notice?")
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is rent?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And notice?"},
    ]
    assert second == found.answer(found.prompts_of(found.active).ids(turns), 6).text
    forgetful = found.answer(found.prompts_of(found.active).ids(turns[:1] + turns[3:]), 6).text
    assert second != forgetful
    talk.obey("/reset")
    assert talk.say("And notice?") == forgetful
    talk.obey("/reset")
    talk.obey("/system")
    prompt = found.prompts_of(found.active).ids(turns[3:])
    assert talk.say("And notice?") == found.answer(prompt, 6).text
    talk.obey("/system Be short.")
    talk.obey("/reset")
    assert talk.say("And notice?") == forgetful


def test_the_oldest_turns_make_room(bases: Callable[..., Path]) -> None:
    found = opened(bases("llama"))
    talk, shown = conversation(found)
    long = "tenant rent month notice " * 10
    for number in range(12):
        talk.say(f"{number} {long}")
    assert len(talk.turns) < 24
    assert talk.turns[-2]["content"] == f"11 {long}"
    assert talk.turns[0]["role"] == "user"
    assert "dropped" in shown.warnings[0]
    kept = list(talk.turns)
    with pytest.raises(DataError, match="too long") as caught:
        talk.say(long * 20)
    assert "512" in caught.value.why
    assert talk.turns == kept


def test_commands(
    bases: Callable[..., Path], adapter: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, prefix = adapter("lora"), adapter("prefix")
    found = opened(bases("llama"), lora, prefix)
    typed = (
        f"/adapter nope\n/adapter {lora.name}\n/adapters\n/help\n/adaptor x\n//adapters\n/exit\nx"
    )
    talk, shown = conversation(found, typed + "\nnever read")
    talk.run()
    assert (
        shown.warnings[0]
        == f"there is no adapter 'nope'; loaded adapters: {lora.name}, {prefix.name}"
    )
    assert "did you mean '/adapter'" in shown.warnings[1]
    assert found.active.name == lora.name
    assert [turn["content"] for turn in talk.turns[::2]] == ["/adapters"]
    printed = capsys.readouterr().out
    assert re.search(rf"^{lora.name} +answers", printed, re.M)
    assert "/system TEXT" in printed
    talk.obey("/base")
    assert found.active.name is None


def process(*arguments: object, typed: str, cwd: Path) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "chat", "--max-new-tokens", "6", *map(str, arguments)],
        cwd=cwd,
        input=typed,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_a_pipe_gets_the_answers_and_nothing_else(
    finished: Callable[[str], Path], bases: Callable[..., Path]
) -> None:
    """Real processes; the answers are those of plain peft on the untouched base."""
    folder = finished("lora")
    typed = "Say number 3.\n"
    done = process(folder, "--json", typed=typed, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (event,) = done.events
    tokenizer = AutoTokenizer.from_pretrained(folder / "adapter")
    asked = [{"role": "user", "content": "Say number 3."}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = written(alone(bases("llama"), folder / "adapter"), prompt)[:6]
    ended, ids = tokenizer.eos_token_id in ids, until_eos(tokenizer, ids)
    assert event == {
        "event": "answer",
        "question": "Say number 3.",
        "text": tokenizer.decode(ids).strip(),
        "adapter": "lora",
        "stopped": "eos" if ended else "length",
        "tokens": len(ids),
    }
    done = process(folder, "--lines", typed=f"{typed}/base\n{typed}", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert event["text"] != chat("--base", bases("llama"), "--json").events[0]["text"]
    # The base's answer comes second, with the history before it.
    found = opened(bases("llama"))
    turns = [*asked, {"role": "assistant", "content": event["text"]}, *asked]
    second = found.answer(Prompts(tokenizer, found.stops).ids(turns), 6).text
    assert done.stdout == formatting.clean(f"{event['text']}\n{second}\n")


def test_a_saved_conversation_can_be_trained_on(bases: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    typed = f"Say 1.\n/save {file}\n/reset\n/system Be shört.\nSay 2.\nSay 3.\n/save {file}\n"
    done = chat("--base", bases("llama"), "--lines", "--json", typed=typed)
    assert done.returncode == 0, done.stderr
    said = [event["text"] for event in done.events if event["event"] == "answer"]
    saved = [event for event in done.events if event["event"] == "saved"]
    assert [event["messages"] for event in saved] == [2, 5]
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert lines[0]["messages"] == [
        {"role": "user", "content": "Say 1."},
        {"role": "assistant", "content": said[0]},
    ]
    roles = [message["role"] for message in lines[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert lines[1]["messages"][0]["content"] == "Be shört."
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump(
            {
                "model": {"base": str(bases("llama"))},
                "data": {"train": "talks.jsonl"},
                "train": {"batch_size": 2},
                "eval": {"enabled": False},
            }
        )
    )
    loaded = recipe_load.load(tmp_path / "r.yaml", verb="sft")
    prepared = plan_make.make(loaded, hardware.detect(), output=tmp_path / "run").prepared
    assert len(prepared.train) + len(prepared.eval) == 2


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("/save talk.jsonl\n", 3, "nothing to save"),
        ("x\n/save\n", 2, "no file is given"),
        ("x\n/save /dev/null/x\n", 7, "cannot be saved"),
    ],
)
def test_a_conversation_that_is_not_saved_is_no_success(
    typed: str, code: int, words: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    with contextlib.chdir(tmp_path):
        done = chat("--base", bases("llama"), "--lines", typed=typed)
    assert done.returncode == code
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_turn_that_cannot_be_asked_stops_a_pipe(bases: Callable[..., Path]) -> None:
    typed = "rent\n" + "rent " * 600 + "\nrent\n"
    done = chat("--base", bases("llama"), "--lines", "--json", typed=typed)
    assert done.returncode == 3
    assert [event["event"] for event in done.events] == ["answer", "error"]


def test_input_that_is_no_text(bases: Callable[..., Path]) -> None:
    done = chat("--base", bases("llama"), typed="\udcff\n")
    assert done.returncode == 3
    assert "UTF-8" in done.stderr


def test_a_streamed_token_is_masked_and_escape_sequences_are_not_passed_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    token = "hf_" + "aB3" * 8
    for piece in ("see ", token[:9], token[9:], " \x1b[2Jnow", "here"):
        console.stream(piece)
    console.finish_stream()
    printed = capsys.readouterr().out
    assert printed == "see [hidden] \N{REPLACEMENT CHARACTER}[2Jnowhere\n"


@pytest.fixture
def terminal(
    bases: Callable[..., Path], adapter: Make, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A chat in a terminal."""
    import pty

    ours, theirs = pty.openpty()
    arguments = ["--base", bases("llama"), "--adapter", adapter("prefix")]
    child = subprocess.Popen(
        [sys.executable, "-m", "tuner", "chat", "--max-new-tokens", "6", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    yield child, ours
    child.kill()
    child.wait()
    os.close(ours)


def until(terminal: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += os.read(terminal, 4096)
    return seen


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_at_a_terminal(terminal: tuple[subprocess.Popen[bytes], int]) -> None:
    child, screen = terminal
    assert b"; /help lists the commands" in until(screen, b"> ")
    os.write(screen, b"/adapter nope\n")
    assert b"loaded adapters: llama-prefix-5" in until(screen, b"\n> ")
    os.write(screen, b"rent " * 600 + b"\n")
    assert b"too long" in until(screen, b"\n> ")
    os.write(screen, b"/exit\n")
    assert child.wait(30) == 0
