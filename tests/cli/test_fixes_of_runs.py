"""Errors that need a run: each is provoked, its fix applied as printed, and the command goes on."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests import here
from tests.cli.command import Done
from tests.cli.fixes import Fault, Follow, Work, adds, fix, meant, prepared, runs
from tuner.machine import processes

LEGAL = "runs/legal"
RUN = ("sft", "r.yaml", "--output", LEGAL)
AGAIN = (*RUN, "--resume", "--dry-run")
PREDICT = ("predict", LEGAL, "--data", "train.jsonl", "--max-new-tokens", "2", "--output")
REWARDS = "def same(answers):\n    return [0.5 for _ in answers]\n"
SAME = "the reward 'same' was 0.5 for every response in 5 steps"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Iterator[Work]:
    """A folder with `r.yaml` and the run `runs/legal` of it; proofs run in this process."""
    keys = {"data.eval": "eval.jsonl", "train.max_steps": 1, "eval.samples": 0}
    fault = Fault(0, "", no_fix, keys | {"export.formats": ["adapter"]}, RUN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "fresh", here.fresh)
        # The times of this run are for no other test's plan.
        patched.setenv("TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        work = prepared(fault, tmp_path_factory.mktemp("ran"), base)
        done = work.run()
        assert done.returncode == 0, done.stderr
        yield work


def no_fix(work: Work, said: str) -> None:
    raise AssertionError(said)


def flags(words: str) -> Follow:
    """Add the options that the fix writes out between `words` and a comma."""
    return adds(rf"{words} (.+?), or start a new run")


def copied_back(work: Work, said: str) -> None:
    assert "put back the files as they were" in fix(said)
    shutil.copy(work.folder / "kept.jsonl", work.folder / "train.jsonl")


def continues(work: Work, said: str) -> None:
    work.arguments = [*re.findall(r"continue it: tuner ([^;]+)", said)[0].split(), "--dry-run"]


def leaves(name: str) -> Follow:
    """Take an override back, where the fix says so."""

    def follow(work: Work, said: str) -> None:
        assert f"leave out {name}:" in fix(said)
        at = next(n for n, word in enumerate(work.arguments) if word.startswith(f"{name}="))
        del work.arguments[at - 1 : at + 1]

    return follow


def key(name: str) -> Follow:
    """Set a key of this name to the value that the error writes out."""

    def follow(work: Work, said: str) -> None:
        (value,) = re.findall(rf"set {name}: ([a-z0-9]+)", said)
        work.arguments += ["--set", f"{name}={value}"]

    return follow


FROM = ("plan", "r.yaml", "--from", LEGAL)
FAULTS = {
    "another eval": Fault(
        6, "the training rows differ: data.eval: eval.jsonl in the run, 0.25 now",
        flags("resume with"), arguments=(*AGAIN, "--set", "data.eval=0.25"),
    ),
    "a setting": Fault(
        6, "train.learning_rate: 0.0002 in the checkpoint, 0.1 now",
        flags("resume with"), arguments=(*AGAIN, "--set", "train.learning_rate=0.1"),
    ),
    "other rows": Fault(
        6, "the training rows differ: train.jsonl has changed", copied_back, arguments=AGAIN,
        files={"train.jsonl": '{"instruction": "Say me.", "output": "Me."}\n' * 9},
    ),
    "a folder that is taken": Fault(
        2, "runs/legal already holds a run",
        lambda work, said: work.swap(LEGAL, fix(said).split("--output ")[1].strip()),
        arguments=RUN,
    ),
    "another rank": Fault(
        2, r"was trained with method.r 16 \(here 4\)", leaves("method.r"),
        arguments=(*FROM, "--set", "method.r=4"),
    ),
    "a new adapter": Fault(
        2, r"was trained with method.r 16 \(here 4\)", key("method.continue"),
        arguments=(*FROM, "--set", "method.r=4"),
    ),
    "nothing to train further": Fault(
        2, "model.adapter is not set",
        lambda work, said: work.arguments.extend(["--set", f"model.adapter={LEGAL}"]),
        arguments=("plan", "r.yaml", "--set", "method.continue=true"),
    ),
    "a quantized base": Fault(
        2, "cannot be folded into weights in nf4", key("model.quantize"),
        arguments=(*FROM, "--set", "method.continue=false", "--set", "model.quantize=nf4"),
    ),
    "a step": Fault(
        2, "runs/legal has no such checkpoint",
        lambda work, said: work.swap("99", re.findall(r"--step with (\d+)", said)[0]),
        arguments=("chat", LEGAL, "--step", "99"),
    ),
    "a step of what": Fault(
        2, "--step 1: no run is given", runs(), arguments=("chat", "--step", "1"),
    ),
    "from nowhere": Fault(
        2, "there is no run, adapter or model runs/legl", meant("runs/legl"),
        arguments=("plan", "r.yaml", "--from", "runs/legl"),
    ),
    "infer": Fault(2, "there is no command 'infer'", runs(), arguments=("infer", LEGAL)),
    "no model": Fault(
        2, "needs a model", runs("--max-new-tokens", "2"),
        arguments=("predict", "--data", "train.jsonl", "--output", "no.jsonl"),
    ),
    "an output that is there": Fault(
        2, "--output r.yaml is there already",
        lambda work, said: work.swap("r.yaml", "another.jsonl"), arguments=(*PREDICT, "r.yaml"),
    ),
    "samples": Fault(
        2, "every answer would be the same", adds(r"add (--temperature \S+),"),
        arguments=(*PREDICT, "samples.jsonl", "--samples", "2"),
    ),
    "bad rows": Fault(
        3, "1 row of 2 cannot be answered", adds(r"(--max-bad-rows 1)$"),
        files={"asked.jsonl": '{"instruction": "Say 1."}\n{"instruction": ""}\n'},
        arguments=("predict", LEGAL, "--data", "asked.jsonl", "--output", "bad.jsonl"),
    ),
    "other columns": Fault(
        3, "cannot be read as 'instruction'",
        lambda work, said: adds(r"(--column) NAME=COLUMN", "instruction=q")(work, said),
        files={"q.jsonl": '{"q": "Say 1."}\n'},
        arguments=("predict", LEGAL, "--data", "q.jsonl", "--output", "q.out"),
    ),
    "ask": Fault(2, "there is no command 'ask'", runs(), arguments=("ask", LEGAL)),
    "verify": Fault(
        2, "there is no run, adapter or model runs/legl", meant("runs/legl"),
        arguments=("verify", "runs/legl"),
    ),
    "a name": Fault(2, "there is no run leagl", meant("leagl"), arguments=("chat", "leagl")),
    "another name": Fault(
        2, "leagl does not exist", meant("runs/leagl"), arguments=("inspect", "runs/leagl"),
    ),
    "chat": Fault(2, "tuner chat needs a model", runs(), arguments=("chat",)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_an_error_of_a_run_says_to_do_works(name: str, ran: Work) -> None:
    fault = FAULTS[name]
    kept = (ran.folder / "train.jsonl").read_bytes()
    (ran.folder / "kept.jsonl").write_bytes(kept)
    for file, content in fault.files.items():
        (ran.folder / file).write_text(str(content))
    work = Work(ran.folder, ran.base, [*fault.arguments])
    failed = asked(work)
    assert failed.returncode == fault.code, failed.stderr + failed.stdout
    assert re.search(fault.said, failed.stderr), failed.stderr
    fault.follow(work, failed.stderr)
    work.arguments = [LEGAL if word == "runs/one" else word for word in work.arguments]
    followed = asked(work)
    assert followed.returncode == 0, f"{failed.stderr}\nafter it was followed:\n{followed.stderr}"
    assert (ran.folder / "train.jsonl").read_bytes() == kept


def asked(work: Work) -> Done:
    """Run the command with a question on its standard input."""
    with mock.patch("sys.stdin", io.StringIO("Say it.\n")):
        return work.run()


def test_an_interrupted_run_is_continued_where_it_is(ran: Work, tmp_path: Path) -> None:
    """From a folder with a slip in it, or without `--resume`."""
    shutil.copytree(ran.folder, tmp_path / "work", symlinks=True)
    work = Work(tmp_path / "work", ran.base, [*AGAIN])
    record = work.folder / LEGAL / "run.json"
    record.write_text(record.read_text().replace('"status": "done"', '"status": "interrupted"'))
    work.swap(LEGAL, "runs/leagl")
    failed = work.run()
    assert (failed.returncode, "runs/legal holds an unfinished run" in failed.stderr) == (2, True)
    continues(work, failed.stderr)
    followed = work.run()
    assert followed.returncode == 0, followed.stderr
    assert "resumes after step 1" in followed.stdout
    work.arguments = [*RUN]
    failed = work.run()
    assert "fix: continue it with --resume, or choose another folder" in failed.stderr
    work.arguments = ["chat", LEGAL]
    failed = asked(work)
    assert "the run runs/legal is not finished" in failed.stderr
    runs()(work, failed.stderr)
    assert work.arguments == ["sft", "runs/legal/recipe.lock.yaml", "--resume"]
    assert work.run().returncode == 0
    work.arguments = ["chat", LEGAL]
    assert asked(work).returncode == 0


def test_a_constant_reward_is_named_and_another_one_goes_on(ran: Work, tmp_path: Path) -> None:
    ppo = {"rlhf.algorithm": "ppo", "rlhf.reward": [{"function": "own.py:same"}]}
    steps = {"train.max_steps": 6, "train.batch_size": 8, "eval.enabled": False}
    fault = Fault(
        5, SAME, no_fix,
        {**ppo, "rlhf.max_new_tokens": 4, "rlhf.allow_code": True, **steps, "eval.samples": 0},
        ("rlhf", "r.yaml"), [{"prompt": f"Say {n}."} for n in range(16)], {"own.py": REWARDS},
    )  # fmt: skip
    work = prepared(fault, tmp_path, ran.base)
    failed = work.run()
    assert failed.returncode == 5, failed.stderr
    assert SAME in failed.stderr
    assert "fix: check on some samples that the reward separates good responses" in failed.stderr
    (tmp_path / "own.py").write_text(
        "def same(answers):\n    return [a.num_tokens for a in answers]\n"
    )
    work.put("train.max_steps", 1)
    assert work.run().returncode == 0
