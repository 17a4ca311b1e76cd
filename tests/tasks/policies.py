"""A tiny policy: its base, its rows, the runs that it starts from, and PPO on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import write_rows
from tests.methods.test_capabilities import load_again
from tuner.console.console import Console
from tuner.export.proof import fresh_process
from tuner.machine import hardware
from tuner.machine.signals import StopRequest
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.record.run_folder import RunFolder
from tuner.rewards.response import Response
from tuner.run import build, spine
from tuner.tasks import leg, rollouts
from tuner.tasks.ppo import Ppo

EOS = 2
# Bytes that no text here has: with the end of turn, what ends an answer of the tiny base.
STOPS = [EOS, *range(110, 180)]
ODD_SETTINGS = {"do_sample": True, "top_k": 5, "repetition_penalty": 3.0, "min_new_tokens": 8}
LEGAL = ["tenant", "rent", "month", "notice", "agreement", "party"]
WORDS = [*LEGAL, "capital", "clause", "film", "music", "great", "terrible"]


def near(values: Sequence[float] | torch.Tensor) -> Any:
    return pytest.approx([float(value) for value in values], abs=1e-6)


def finish(recipe: Path, verb: str, folder: Path) -> None:
    """Run a recipe in this process, to the end."""
    made = plan_make.make(recipe_load.load(recipe, verb=verb), hardware.detect(), output=folder)
    spine.run(made, resume=False, console=Console(quiet=True))


def stages(folder: Path, base: Path) -> Path:
    """`folder` with a base, rows, and finished runs `sft` and `reward` of that base."""
    shutil.copytree(base, folder / "base")
    said = {"eos_token_id": STOPS, "pad_token_id": 0, **ODD_SETTINGS}
    (folder / "base/generation_config.json").write_text(json.dumps(said))
    pairs = [(a, b) for a in WORDS for b in WORDS[:4]]
    asked = [f"Say {a} {b}." for a, b in pairs]
    write_rows(
        folder / "sft.jsonl",
        [
            {"prompt": prompt, "completion": f"{a} {b} {a}"}
            for prompt, (a, b) in zip(asked, pairs, strict=True)
        ],
    )
    write_rows(
        folder / "preferences.jsonl",
        [
            {"prompt": prompt, "chosen": f"{a} great {b}", "rejected": f"{b} terrible {a}"}
            for prompt, (a, b) in zip(asked, pairs, strict=True)
        ],
    )
    write_rows(
        folder / "prompts.jsonl", [{"prompt": f"Say {a} {b}."} for a in WORDS for b in WORDS[4:8]]
    )
    common = {
        "model": {"base": "base"},
        "method": {"name": "lora", "r": 4, "dropout": 0.2},
        "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01},
        "eval": {"enabled": False, "samples": 0},
        "export": {"formats": ["adapter"]},
    }
    data = {"sft": "sft.jsonl", "reward": "preferences.jsonl"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_process, "fresh_logits", load_again)
        for verb, file in data.items():
            recipe = folder / f"{verb}.yaml"
            recipe.write_text(yaml.safe_dump({**common, "data": {"train": file, "eval": 0}}))
            finish(recipe, verb, folder / verb)
    return folder


def write_recipe(work: Path, path: Path, **sections: Any) -> Path:
    """A recipe of PPO on the tiny base; sections are added to those it has."""
    given: dict[str, Any] = {
        "model": {"base": str(work / "base")},
        "data": {"train": str(work / "prompts.jsonl"), "eval": 4},
        "rlhf": {
            "reward": [{"model": str(work / "reward")}, {"rule": "length", "min": 2, "max": 6}],
            "max_new_tokens": 8,
            "sample_steps": 0,
        },
        "ppo": {},
        "train": {
            "max_steps": 2,
            "batch_size": 8,
            "micro_batch_size": 4,
            "learning_rate": 0.01,
            "save_steps": 100,
        },
        "eval": {"enabled": False, "samples": 0},
        "export": {"formats": ["adapter"]},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section}
    if "policy" not in given["rlhf"]:
        given["method"] = {"name": "lora", "r": 4, **given.get("method", {})}
    path.write_text(yaml.safe_dump(given))
    return path


def make(work: Path, folder: Path, **sections: Any) -> plan.Plan:
    """The plan of such a recipe."""
    path = write_recipe(work, folder / "rlhf.yaml", **sections)
    number = len(list(folder.glob("run-*")))
    loaded = recipe_load.load(path, verb="rlhf")
    return plan_make.make(loaded, hardware.detect(), output=folder / f"run-{number}")


@contextmanager
def learner(made: plan.Plan) -> Iterator[Ppo]:
    """PPO on a new policy, before its first step."""
    trained = build.start(made, build.load(made))
    trained.model.eval()
    with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
        console = Console(quiet=True)
        yield Ppo(leg.begin(made, trained, made.stages[0], folder, stop, console))


def trained_tensors(ppo: Ppo, critic: bool) -> dict[str, torch.Tensor]:
    return {
        name: each.detach().clone()
        for name, each in ppo.leg.parameters
        if name.startswith("value_head") == critic
    }


@torch.no_grad()
def under(ppo: Ppo, answers: Sequence[Response], start: bool) -> torch.Tensor:
    """(tokens,) log-probabilities of fixed answers under the policy, or under its start."""
    if not start:
        return rollouts.token_scores(ppo.plan, ppo.model, answers)[0]
    with rollouts.reference(ppo.model):
        return rollouts.token_scores(ppo.plan, ppo.model, answers)[0]


def answered(made: plan.Plan, *drawn: Sequence[int]) -> list[Response]:
    """Answers of given tokens to the first prompts."""
    pairs = zip(made.prepared.train, drawn, strict=False)
    return [rollouts.response(made, prompt, ids, rollouts.stops(made)) for prompt, ids in pairs]


POLICIES = pytest.mark.parametrize("start", ["base", "sft"])


def started(work: Path, start: str) -> dict[str, Any]:
    """The section rlhf of a policy that starts from the bare base or from the sft run."""
    return {"policy": str(work / "sft")} if start == "sft" else {}
