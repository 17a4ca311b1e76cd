"""`tuner rlhf` with PPO, from the recipe to the run folder: what is left, resumed and refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import write_rows
from tests.methods.test_capabilities import load_again
from tests.run.launched import Tuner, assert_equal, record
from tests.tasks.policies import STOPS, learner, make, stages, write_recipe
from tests.tokenizers import THINK_TEMPLATE
from tuner.console.console import Console
from tuner.errors import TunerError
from tuner.export.proof import fresh_process
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.recipe.schema_rlhf import PpoSection, RlhfSection
from tuner.run import build, spine

FUNCTIONS = """
def constant(answers):
    return [0.25 for answer in answers]


def nothing(answers):
    return [float("nan") if answer.num_tokens > 2 else 1.0 for answer in answers]


def length(answers):
    return [float(answer.num_tokens) for answer in answers]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bases: Callable[[str], Path]) -> Path:
    folder = stages(tmp_path_factory.mktemp("rlhf"), bases("llama"))
    (folder / "r.py").write_text(FUNCTIONS)
    return folder


def resumable(work: Path, folder: Path, trunk: str) -> Path:
    """A recipe of four steps that remembers all that a run of PPO can remember."""
    return write_recipe(
        work,
        folder / "rlhf.yaml",
        rlhf={
            "policy": str(work / "sft"),
            "responses_per_prompt": 2,
            "sample_steps": 1,
            "temperature": 0.9,
        },
        ppo={
            "kl_target": 0.05,
            "kl_horizon": 40,
            "normalize_scores": True,
            "ptx_coefficient": 0.5,
            "ptx_data": str(work / "sft.jsonl"),
            "value_trunk": trunk,
        },
        train={"max_steps": 4, "save_steps": 2},
        eval={"enabled": True, "samples": 2},
    )


@pytest.mark.parametrize("trunk", [pytest.param("policy", marks=pytest.mark.slow), "reward"])
def test_a_stopped_run_resumes_to_the_last_byte(
    trunk: str, tuner: Tuner, work: Path, tmp_path: Path
) -> None:
    """R14, C03: stopped after step 2, killed in step 3; and R13 on what it leaves."""
    recipe = resumable(work, tmp_path, trunk)
    reference, folder = tmp_path / "reference", tmp_path / "run"
    assert tuner(recipe, reference, verb="rlhf") == 0, tuner.said()
    lines = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert len({line["kl_coefficient"] for line in lines}) == 4
    stop: list[tuple[Any, int]] = [
        (("sealed", 2, signal.SIGTERM), 128 + signal.SIGTERM),
        (("logged", 3, signal.SIGKILL), -signal.SIGKILL),
        (None, 0),
    ]
    for number, (at, code) in enumerate(stop):
        assert tuner(recipe, folder, at=at, resume=number > 0, verb="rlhf") == code, tuner.said()
    assert_equal(folder, reference)
    samples = (reference / "samples.jsonl").read_bytes()
    assert len(samples.splitlines()) == 4 * 8
    assert (folder / "samples.jsonl").read_bytes() == samples
    assert len(record(folder)["resumes"]) == 2
    assert record(folder)["resumes"][-1]["from_step"] == 2
    an_ordinary_adapter(work, folder)


def an_ordinary_adapter(work: Path, folder: Path) -> None:
    """R13: transformers and peft alone load it; it answers as the run said, and is no critic."""
    adapter = folder / "adapter"
    saved = load_file(adapter / "adapter_model.safetensors")
    assert {name.split(".")[-2] for name in saved} == {"lora_A", "lora_B"}
    assert not [path for path in adapter.rglob("*") if "value" in path.name or path.is_dir()]
    sealed = load_file(folder / "checkpoints/step-4/model.safetensors")
    assert any(name.startswith("value_head") for name in sealed)
    for name, tensor in saved.items():
        kind = name.split(".")[-2]
        assert torch.equal(tensor, sealed[name.replace(kind, f"{kind}.default")])
    base = AutoModelForCausalLM.from_pretrained(work / "base")
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    for sample in record(folder)["samples"]:
        chat = [{"role": "user", "content": sample["prompt"]}]
        ids = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        for _ in range(8):
            with torch.no_grad():
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        (own,) = ids[:, -8:].tolist()
        end = next((n for n, token in enumerate(own) if token in STOPS), 8)
        assert tokenizer.decode(own[:end]).strip() == sample["after"]
    assert record(folder)["unmoved_tensors"] == []
    assert all(item["verified"] for item in record(folder)["artefacts"])


# What is refused, and what stops a run


def ends_with(work: Path, folder: Path, **sections: Any) -> TunerError:
    """The error that such a recipe ends with, in this process."""

    def go() -> None:
        spine.run(make(work, folder, **sections), resume=False, console=Console(quiet=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_process, "fresh_logits", load_again)
        with pytest.raises(TunerError) as caught:
            go()
    return caught.value


def function(work: Path, name: str) -> dict[str, Any]:
    return {"reward": [{"function": f"{work / 'r.py'}:{name}"}], "allow_code": True}


def test_a_reward_model_of_another_tokenizer_is_refused(
    work: Path, tmp_path: Path, bases: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R15: by the plan, which loads no weights: those of the base are not even there."""
    plain = tmp_path / "other"
    shutil.copytree(bases("llama", "plain"), plain)
    judge = tmp_path / "judge"
    shutil.copytree(work / "reward/adapter", judge)
    tokens = ("tokenizer.json", "tokenizer_config.json")
    for name in tokens:
        shutil.copy(plain / name, judge / name)
    rlhf = {"reward": [{"model": str(judge)}]}
    error = ends_with(work, tmp_path, rlhf=rlhf)
    assert error.exit_code == 4
    assert "another vocabulary" in error.what
    for name in tokens:
        shutil.copy(work / "base" / name, judge / name)
    tokenizer = AutoTokenizer.from_pretrained(judge)
    tokenizer.chat_template = THINK_TEMPLATE
    tokenizer.save_pretrained(judge)
    error = ends_with(work, tmp_path, rlhf=rlhf)
    assert error.exit_code == 4
    assert "another chat template" in error.what
    assert not list(tmp_path.glob("run-*"))


def test_a_policy_is_no_reward_model(work: Path, tmp_path: Path) -> None:
    error = ends_with(work, tmp_path, rlhf={"reward": [{"model": str(work / "sft")}]})
    assert error.exit_code == 4
    assert "is not a reward model" in error.what


def test_a_whole_reward_model_cannot_lend_its_layers_to_the_critic(
    work: Path, tmp_path: Path
) -> None:
    network = run_merged(work)
    whole = tmp_path / "whole"
    network.save_pretrained(whole)
    AutoTokenizer.from_pretrained(work / "reward/adapter").save_pretrained(whole)
    rlhf = {"reward": [{"model": str(whole)}]}
    made = make(work, tmp_path, rlhf=rlhf, train={"max_steps": 1})
    with learner(made) as ppo:
        ppo.train()
    error = ends_with(work, tmp_path, rlhf=rlhf, ppo={"value_trunk": "reward"})
    assert error.exit_code == 4
    assert "ppo.value_trunk" in error.what


def run_merged(work: Path) -> Any:
    """The reward model with its adapter merged, as transformers has it."""
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(work / "base", num_labels=1)
    return PeftModel.from_pretrained(base, str(work / "reward/adapter")).merge_and_unload()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_reward_that_is_no_number_stops_the_run(
    enabled: bool, work: Path, tmp_path: Path
) -> None:
    """While the start is scored, or in a step; the part and the row are named."""
    rlhf = function(work, "nothing")
    rlhf["reward"] = [{"rule": "length", "max": 6}, *rlhf["reward"]]
    error = ends_with(work, tmp_path, rlhf=rlhf, eval={"enabled": enabled})
    assert error.exit_code == 5
    assert "'nothing' is nan for row prompts.jsonl:" in error.what
    assert json.loads((tmp_path / "run-0/run.json").read_text())["error"]["exit_code"] == 5


def test_a_constant_reward_stops_the_run(work: Path, tmp_path: Path) -> None:
    train = {"max_steps": 8}
    error = ends_with(work, tmp_path, rlhf=function(work, "constant"), train=train)
    assert error.exit_code == 5
    assert "'constant' was 0.25 for every response in 5 steps" in error.what


def test_a_policy_too_far_from_its_start_stops_the_run(work: Path, tmp_path: Path) -> None:
    """No step is made on it, and the last good checkpoint is kept and named."""
    error = ends_with(
        work,
        tmp_path,
        rlhf={**function(work, "length"), "kl_limit": 0.05, "kl_coefficient": 0.0},
        train={"max_steps": 12, "save_steps": 1, "learning_rate": 0.03},
    )
    assert error.exit_code == 5
    assert "the policy has collapsed: the KL per answer" in error.what
    logged = (tmp_path / "run-0/metrics.jsonl").read_text().splitlines()
    newest = tmp_path / f"run-0/checkpoints/step-{len(logged)}"
    assert newest.is_dir()
    assert f"the last good checkpoint is {newest}" in error.why
    assert f"at step {len(logged) + 1}" in error.what


def test_a_policy_that_always_says_the_same_stops_the_run(work: Path, tmp_path: Path) -> None:
    rlhf = {"temperature": 1e-4, "responses_per_prompt": 8}
    error = ends_with(work, tmp_path, rlhf=rlhf)
    assert error.exit_code == 5
    assert "all 8 answers of step 1 are identical" in error.what
    assert "there is no checkpoint yet" in error.why


def test_a_policy_that_never_ends_stops_the_run(work: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(work / "base", base)
    (base / "generation_config.json").write_text("{}")
    rule = [{"rule": "length", "max": 3}]
    error = ends_with(
        work,
        tmp_path,
        model={"base": str(base)},
        rlhf={"reward": rule, "max_new_tokens": 2},
        train={"max_steps": 30, "batch_size": 2, "micro_batch_size": 2, "learning_rate": 1e-6},
    )
    assert error.exit_code == 5
    assert "no answer ended in the last 5 steps" in error.what


def test_prompts_beyond_the_context_are_counted_or_refused(work: Path, tmp_path: Path) -> None:
    prompts = [{"prompt": f"Say number {n}."} for n in range(40)]
    long = [{"prompt": "tenant rent month " * 200 + str(n)} for n in range(8)]
    for number, exit_code in ((1, None), (8, 3)):
        file = write_rows(tmp_path / "prompts.jsonl", prompts + long[:number])
        data = {"train": str(file), "eval": 0}
        if exit_code is None:
            report = make(work, tmp_path, data=data).prepared.report
            assert report["rows_train"] == 40
            assert any("1 of 41" in text or "1 row" in text for text in report["warnings"])
        else:
            error = ends_with(work, tmp_path, data=data)
            assert error.exit_code == exit_code
            assert "are left out: prompts longer than" in error.what


def test_code_is_not_run_without_leave(work: Path, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
    rlhf = {"reward": [{"function": "r.py:length"}]}
    error = ends_with(work, tmp_path, rlhf=rlhf)
    assert error.exit_code == 8
    assert "rlhf.allow_code" in error.why
    assert not (tmp_path / "r.py.ran").exists()


CONTRADICTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "copies": (
        {"rlhf": {"responses_per_prompt": 3}},
        ["rlhf.responses_per_prompt: 3", "train.batch_size: 8"],
    ),
    "minibatches": ({"ppo": {"minibatches": 3}}, ["ppo.minibatches: 3"]),
    "value trunk": (
        {"rlhf": {"reward": [{"rule": "length", "max": 6}]}, "ppo": {"value_trunk": "reward"}},
        ["ppo.value_trunk: reward", "rlhf.reward has no reward model"],
    ),
    "shared trunk": (
        {"ppo": {"value_trunk": "reward", "share_trunk": True}},
        ["ppo.share_trunk: true"],
    ),
    "ptx coefficient alone": (
        {"ppo": {"ptx_coefficient": 0.1}},
        ["ppo.ptx_coefficient", "ppo.ptx_data"],
    ),
    "ptx data alone": ({"ppo": {"ptx_data": "x"}}, ["ppo.ptx_coefficient", "ppo.ptx_data"]),
    "no reward": ({"rlhf": {"reward": []}}, ["rlhf.reward is empty"]),
    "ppo and dpo": (
        {"rlhf": {"algorithm": "dpo", "reward": []}},
        ["ppo", "rlhf.algorithm: dpo"],
    ),
    "method": ({"method": {"name": "vera", "r": 8}}, ["method.name: vera"]),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_by_its_keys(
    case: str, work: Path, tmp_path: Path
) -> None:
    sections, named = CONTRADICTIONS[case]
    error = ends_with(work, tmp_path, **sections)
    assert error.exit_code == 2
    for key in named:
        assert key in str(error)


def test_the_section_rlhf_is_for_its_own_verb(work: Path, tmp_path: Path) -> None:
    recipe = write_recipe(work, tmp_path / "rlhf.yaml")
    with pytest.raises(TunerError) as caught:
        recipe_load.load(recipe, verb="sft")
    assert caught.value.exit_code == 2
    assert "the section rlhf is for `tuner rlhf`" in caught.value.what
    assert f"tuner rlhf --recipe {recipe}" in caught.value.fix


# Every key turns something

KL = {"kl_target": 0.001}
PTX = {"ptx_coefficient": 0.5, "ptx_data": "sft.jsonl"}
# Another value, and what else has to be set for the key to have a meaning.
ALIVE: dict[str, tuple[Any, dict[str, Any]]] = {
    "rlhf.algorithm": ("rloo", {}),
    "rlhf.policy": ("sft", {}),
    "rlhf.reward": ([{"rule": "length", "min": 2, "max": 5}], {}),
    "rlhf.allow_code": (True, {"rlhf": {"reward": [{"function": "r.py:length"}]}}),
    "rlhf.responses_per_prompt": (2, {}),
    "rlhf.max_new_tokens": (5, {}),
    "rlhf.temperature": (0.9, {}),
    "rlhf.vllm": ("colocate", {}),
    "rlhf.kl_coefficient": (0.5, {}),
    "rlhf.kl_limit": (1e-7, {}),
    "rlhf.missing_eos_penalty": (0.25, {}),
    "rlhf.sample_steps": (2, {}),
    "ppo.epochs": (1, {}),
    "ppo.minibatches": (1, {}),
    "ppo.clip": (0.001, {}),
    "ppo.value_clip": (0.001, {}),
    "ppo.value_coefficient": (0.5, {}),
    "ppo.value_trunk": ("reward", {}),
    "ppo.share_trunk": (True, {}),
    "ppo.value_learning_rate": (0.003, {}),
    "ppo.gamma": (0.5, {}),
    "ppo.gae_lambda": (0.5, {}),
    "ppo.kl_estimator": ("k3", {}),
    "ppo.kl_target": (0.001, {}),
    "ppo.kl_horizon": (50, {"ppo": KL}),
    "ppo.kl_stop": (1e-7, {}),
    "ppo.whiten_rewards": (True, {}),
    "ppo.whiten_advantages": (False, {}),
    "ppo.score_clip": (0.01, {}),
    "ppo.normalize_scores": (True, {}),
    "ppo.ptx_coefficient": (0.1, {"ppo": PTX}),
    "ppo.ptx_data": ("other.jsonl", {"ppo": PTX}),
}


def test_every_key_has_a_case() -> None:
    keys = {f"rlhf.{key}" for key in RlhfSection.model_fields}
    assert set(ALIVE) == keys | {f"ppo.{key}" for key in PpoSection.model_fields}


@pytest.fixture(scope="module")
def outcome(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What two steps log, or the error; each recipe is run once."""
    known: dict[str, str] = {}
    rows = [{"prompt": f"Say {n}.", "completion": f"film {n}"} for n in range(20)]
    write_rows(work / "other.jsonl", rows)

    def of(**sections: Any) -> str:
        key = json.dumps(sections, sort_keys=True)
        if key not in known:
            known[key] = _outcome(work, tmp_path_factory.mktemp("alive"), sections)
        return known[key]

    return of


def _outcome(work: Path, folder: Path, sections: dict[str, Any]) -> str:
    path = write_recipe(work, work / "alive.yaml", **sections)
    try:
        loaded = recipe_load.load(path, verb="rlhf")
        made = plan_make.make(loaded, hardware.detect(), output=folder / "run")
        if made.rlhf.algorithm != "ppo":
            return made.rlhf.algorithm
        with learner(made) as ppo:
            ppo.train()
    except TunerError as error:
        return f"{error.exit_code} {error.what}"
    lines = [json.loads(line) for line in (made.output / "metrics.jsonl").read_text().splitlines()]
    samples = made.output / "samples.jsonl"
    shown = samples.read_text() if samples.exists() else ""
    return json.dumps([{**line, "seconds": 0} for line in lines]) + shown


@pytest.mark.parametrize("key", ALIVE)
def test_every_key_turns_something(key: str, outcome: Callable[..., str]) -> None:
    """A run with another value of the key logs something else, or is refused."""
    value, needed = ALIVE[key]
    section, name = key.split(".")
    sections = {part: {**given} for part, given in needed.items()}
    before = outcome(**sections)
    sections.setdefault(section, {})[name] = value
    after = outcome(**sections)
    assert after != before
    # Where both ran, they differ in what is learned, and nothing else ended one of them.
    assert before.startswith("[") or key == "rlhf.allow_code"
    refused = {"rlhf.kl_limit": "5 the policy has collapsed: the KL", "rlhf.algorithm": ""}
    refused["rlhf.vllm"] = "2 the recipe contradicts itself"
    assert after.startswith(refused.get(key, "["))


def test_the_same_recipe_logs_the_same(work: Path, tmp_path: Path) -> None:
    """Else every key would seem alive."""
    assert _outcome(work, tmp_path / "a", {}) == _outcome(work, tmp_path / "b", {})


def test_the_plan_counts_judges_and_the_cache_of_answers(work: Path, tmp_path: Path) -> None:
    """A judge's weights stand beside the policy's; the cache is transformers' own, to the byte."""
    alone = make(work, tmp_path, rlhf={"reward": [{"rule": "length", "min": 2, "max": 6}]})
    judged = make(work, tmp_path)
    weights = judged.facts["memory"]["weights"] - alone.facts["memory"]["weights"]
    assert weights == 4 * judged.facts["parameters"]["total"]
    network = build.load(judged)
    longest = max(prompt.num_tokens for prompt in judged.prepared.train)
    rows, tokens = judged.recipe.train.batch_size, longest + judged.rlhf.max_new_tokens
    with torch.no_grad():
        cache = network(torch.zeros(rows, tokens, dtype=torch.long)).past_key_values
    held = [tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values)]
    passing = rows * longest * judged.shape.kept.passing * 4
    assert judged.shape.drawing == sum(held) + held[0] + held[1] + passing
    learning = make(work, tmp_path, ppo={"value_trunk": "reward"}).facts["memory"]
    assert learning["activations"] == 2 * judged.facts["memory"]["activations"]
    assert learning["peak"] >= learning["drawing"] > 0


def test_answers_that_do_not_fit_are_refused_by_the_plan(work: Path, tmp_path: Path) -> None:
    """Exit 7, with the keys that change it, before anything is loaded."""
    train = {"batch_size": 50_000, "micro_batch_size": "auto"}
    path = write_recipe(work, tmp_path / "rlhf.yaml", train=train, rlhf={"max_new_tokens": 64})
    host = hardware.Machine(cpu_count=2, memory_bytes=1 << 30)
    with pytest.raises(TunerError, match="sampling the answers") as caught:
        plan_make.make(recipe_load.load(path, verb="rlhf"), host, output=tmp_path / "run")
    assert caught.value.exit_code == 7
    assert "rlhf.max_new_tokens" in caught.value.fix
