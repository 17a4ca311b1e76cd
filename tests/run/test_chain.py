"""A recipe that names recipes: three stages at once, found again, stopped, resumed, refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.run.chains import Chain, Sections, changed, write, write_chain
from tests.run.launched import record
from tuner.cli import run_folder, train
from tuner.cli.make_plan import Mode, PlanRequest
from tuner.console.console import Console
from tuner.errors import IntegrityError, ModelError, RecipeError, TunerError
from tuner.machine import hardware
from tuner.methods.lora import LoraOptions
from tuner.model.adapters import saved_models
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.record import checkpoint
from tuner.run import chain, content


@pytest.fixture(scope="module")
def tuner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    started = Chain(tmp_path_factory.mktemp("launcher"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def work(
    tuner: Chain, bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a chain that one command has carried out."""
    folder = tmp_path_factory.mktemp("chain")
    assert tuner(write_chain(folder, bases("llama"))) == 0, tuner.said()
    (folder / "said").write_text(tuner.said())
    return folder


def records(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The record of every run, and when it was written."""
    found = sorted((folder / "runs").glob("*/run.json"))
    return {file.parent.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in found}


def weights(folder: Path, run: str) -> str:
    (artefact,) = record(folder / "runs" / run)["artefacts"]
    assert artefact["verified"]
    return str(artefact["sha256"])


def test_one_command_runs_three_stages(work: Path) -> None:
    runs = work / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["reward", "rlhf", "sft"]
    found = {name: record(runs / name) for name in ("sft", "reward", "rlhf")}
    assert {each["status"] for each in found.values()} == {"done"}
    assert [each["plan"]["task"] for each in found.values()] == ["sft", "reward", "rlhf"]
    assert found["sft"]["ended"] < found["reward"]["started"]
    assert found["reward"]["ended"] < found["rlhf"]["ended"]
    said = (work / "said").read_text()
    assert "stage 1 of 3: sft.yaml" in said
    assert "stage 2 of 3: reward.yaml" in said
    assert len({weights(work, name) for name in found}) == 3


def test_the_policy_starts_from_the_adapter_of_its_stage(work: Path) -> None:
    """And the rewards are those of the reward model's run: what a checkpoint is bound to."""
    runs = work / "runs"
    identity = checkpoint.load(runs / "rlhf/checkpoints/step-2").state["identity"]
    for key, name in (
        ("rlhf.policy_sha256", "sft"),
        ("rlhf.reward_sha256.reward.yaml", "reward"),
    ):
        assert identity[key] == saved_models.find(name, runs, "key").digest()
    found = record(runs / "rlhf")["plan"]["values"]
    assert found["method.r"] == {"value": 4, "origin": "rlhf.policy"}
    before = record(runs / "rlhf")["scores"]["before"]
    # Nothing has moved yet: the policy is the stage's adapter, and so is what it is held to.
    assert before["kl"] == pytest.approx(0.0, abs=1e-4)
    assert before.keys() >= {"reward_reward", "reward_length"}


def test_finished_stages_are_found_again(work: Path, tuner: Chain) -> None:
    """By another recipe with another output; their records are not touched."""
    before = records(work)
    train = {"max_steps": 1}
    recipe = changed(work / "rlhf.yaml", "second.yaml", rlhf={"kl_coefficient": 0.2}, train=train)
    assert tuner(recipe) == 0, tuner.said()
    after = records(work)
    assert json.loads(after.pop("second")[0])["status"] == "done"
    assert after == before
    assert f"stage sft.yaml is done: {work / 'runs/sft'}" in tuner.said()
    assert f"stage reward.yaml is done: {work / 'runs/reward'}" in tuner.said()


def statuses(work: Path) -> dict[str, tuple[str, str]]:
    loaded = recipe_load.load(work / "rlhf.yaml", verb="rlhf")
    found = chain.links(loaded, work / "runs/rlhf")
    return {link.name: (link.status, link.folder.name) for link in found}


def test_a_stage_whose_recipe_has_changed_is_new(work: Path) -> None:
    """A comment changes nothing; a value does, and the old run keeps its folder."""
    done = {"sft.yaml": ("done", "sft"), "reward.yaml": ("done", "reward")}
    file = work / "reward.yaml"
    text = file.read_text()
    try:
        file.write_text(f"# The same.\n{text}")
        assert statuses(work) == done
        changed(file, "reward.yaml", reward={"centering": 0.2})
        assert statuses(work) == done | {"reward.yaml": ("new", "reward-2")}
    finally:
        file.write_text(text)
    assert statuses(work) == done


@pytest.mark.parametrize("beside", ["recipe", "user"])
@pytest.mark.parametrize("name", ["rows.jsonl", "own.yaml"])
def test_every_file_of_a_stage_counts(
    name: str,
    beside: str,
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows and a data template, beside the recipe or where the user stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    recipe = write(tmp_path / "recipes/r.yaml", bases("llama"), "rows.jsonl", {}, train={})
    changed(recipe, "r.yaml", data={"template": "own.yaml"})
    for each in ("rows.jsonl", "own.yaml"):
        (recipe.parent if beside == "recipe" else tmp_path).joinpath(each).write_text("one")
    before = content.content_sha256(recipe_load.load(recipe, verb=None))
    assert content.content_sha256(recipe_load.load(recipe, verb=None)) == before
    (recipe.parent if beside == "recipe" else tmp_path).joinpath(name).write_text("other")
    assert content.content_sha256(recipe_load.load(recipe, verb=None)) != before


def test_a_stage_whose_data_has_changed_runs_anew(work: Path, tuner: Chain) -> None:
    before = records(work)
    file = work / "sft.jsonl"
    text = file.read_text()
    try:
        file.write_text(text + json.dumps({"prompt": "Say foo.", "completion": "foo"}) + "\n")
        recipe = changed(work / "rlhf.yaml", "third.yaml", train={"max_steps": 1})
        assert tuner(recipe) == 0, tuner.said()
    finally:
        file.write_text(text)
    after = records(work)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"sft-2", "third"}
    assert weights(work, "sft-2") != weights(work, "sft")
    identity = checkpoint.load(work / "runs/third/checkpoints/step-1").state["identity"]
    adapter = saved_models.find("sft-2", work / "runs", "key")
    assert identity["rlhf.policy_sha256"] == adapter.digest()


def test_a_chain_that_is_stopped_goes_on_where_it_was(
    work: Path, tuner: Chain, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """SIGTERM in the second stage, Ctrl-C in the last; what is finished is not repeated, and all
    three end as the chain that was never stopped."""
    recipe = write_chain(tmp_path, bases("llama"))
    runs = tmp_path / "runs"
    assert tuner(recipe, at=("reward", 1, signal.SIGTERM)) == 143
    assert record(runs / "sft")["status"] == "done"
    assert record(runs / "reward")["status"] == "interrupted"
    assert (runs / "reward/checkpoints/step-1/MANIFEST.json").exists()
    assert not (runs / "rlhf").exists()
    said = tuner.said()
    assert "--resume" in said or "the same command again" in said
    assert "Traceback" not in said
    sealed = records(tmp_path)["sft"]
    assert tuner(recipe, "--resume", at=("rlhf", 1, signal.SIGINT)) == 130
    assert record(runs / "reward")["resumes"][0]["from_step"] == 1
    assert record(runs / "rlhf")["status"] == "interrupted"
    both = records(tmp_path)
    assert both["sft"] == sealed
    assert tuner(recipe, "--resume") == 0, tuner.said()
    after = records(tmp_path)
    assert {name: after[name] for name in ("sft", "reward")} == {
        name: both[name] for name in ("sft", "reward")
    }
    assert record(runs / "rlhf")["resumes"][0]["from_step"] == 1
    assert sorted(path.name for path in runs.iterdir()) == ["reward", "rlhf", "sft"]
    for name in ("sft", "reward", "rlhf"):
        assert weights(tmp_path, name) == weights(work, name), name


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_dry_run_shows_all_stages_and_writes_nothing(
    work: Path, tuner: Chain, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = write_chain(tmp_path, bases("llama"))
    before = files(tmp_path)
    assert tuner(recipe, "--dry-run") == 0, tuner.said()
    said = tuner.said()
    heads = [line for line in said.splitlines() if line.startswith("stage ")]
    assert heads == [
        "stage 1 of 3: sft.yaml (new)",
        "stage 2 of 3: reward.yaml (new)",
        "stage 3 of 3: rlhf",
    ]
    for name in ("sft", "reward", "rlhf"):
        assert f"run folder  {tmp_path / 'runs' / name}" in said
    assert tuner(recipe, "--dry-run", "--json") == 0, tuner.said()
    events = [json.loads(line) for line in tuner.said().splitlines() if line.startswith("{")]
    plans = [event["plan"] for event in events if event["event"] == "plan"]
    assert [each["task"] for each in plans] == ["sft", "reward", "rlhf"]
    assert files(tmp_path) == before
    other = ("--set", "train.max_steps=1", "--output", str(work / "runs/other"))
    assert tuner(work / "rlhf.yaml", "--dry-run", "--json", *other) == 0
    events = [json.loads(line) for line in tuner.said().splitlines() if line.startswith("{")]
    plans = [event["plan"] for event in events if event["event"] == "plan"]
    assert [each["task"] for each in plans] == ["rlhf"]


def test_a_failing_stage_ends_with_its_own_error(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """A real process: its exit code and its three lines come through, naming the stage."""
    recipe = write_chain(tmp_path, bases("llama"))
    (tmp_path / "sft.jsonl").write_text('{"prompt": "Say foo."}\n')
    output = str(tmp_path / "runs" / "rlhf")
    with pytest.raises(TunerError) as caught:
        train.train(
            PlanRequest("rlhf", str(recipe), (), output, mode=Mode.RUN), Console(quiet=True)
        )
    error = caught.value
    assert error.exit_code == 3
    assert error.what.startswith("stage sft.yaml: ")
    assert error.why or error.problems
    assert error.fix
    assert not (tmp_path / "runs" / "rlhf").exists()
    assert not (tmp_path / "runs" / "reward").exists()


def test_a_recipe_that_names_itself_or_a_chain_is_refused(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = write_chain(tmp_path, bases("llama"))
    itself = changed(recipe, "itself.yaml", rlhf={"policy": "itself.yaml"})
    outer = changed(recipe, "outer.yaml", rlhf={"policy": "rlhf.yaml"})
    for path in (itself, outer):
        with pytest.raises(RecipeError, match="refers to further recipes") as caught:
            chain.links(recipe_load.load(path, verb="rlhf"), tmp_path / "runs/rlhf")
        assert caught.value.exit_code == 2
        assert "tuner rlhf --recipe" in caught.value.fix


def test_stages_of_one_name_have_folders_of_their_own(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two reward models called model.yaml, and a policy called as the recipe that names it."""
    recipe = write_chain(tmp_path, bases("llama"))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tree = yaml.safe_load((tmp_path / "reward.yaml").read_text())
        tree["data"]["train"] = str(tmp_path / "pairs.jsonl")
        tree["reward"]["centering"] = 0.1 if name == "one" else 0.2
        (tmp_path / name / "model.yaml").write_text(yaml.safe_dump(tree))
    shutil.copy(tmp_path / "sft.yaml", tmp_path / "one" / "both.yaml")
    rewards = [{"model": f"{name}/model.yaml", "name": name} for name in ("one", "other")]
    both = changed(recipe, "both.yaml", rlhf={"policy": "one/both.yaml", "reward": rewards})
    loaded = recipe_load.load(both, verb="rlhf")
    own = run_folder.find(loaded, resume=False)
    folders = [link.folder for link in chain.links(loaded, own)]
    assert len({*folders, own}) == 4


def plan_of(recipe: Path) -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="rlhf")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "out")


@pytest.fixture
def alone(work: Path) -> Callable[..., Path]:
    """A recipe that names runs, not recipes."""

    def make(policy: Path, judge: Path | None = None, **sections: Sections) -> Path:
        rewards = [{"model": str(judge or work / "runs/reward")}]
        rlhf = {"policy": str(policy), "reward": rewards}
        return changed(work / "rlhf.yaml", "alone.yaml", rlhf=rlhf, **sections)

    return make


def copied(work: Path, name: str, to: Path) -> Path:
    return Path(shutil.copytree(work / "runs" / name, to / name))


def test_runs_may_be_named_in_place_of_recipes(work: Path, alone: Callable[..., Path]) -> None:
    for policy in (work / "runs/sft", work / "runs/sft/adapter"):
        made = plan_of(alone(policy))
        assert made.parties.policy is not None
        assert made.parties.policy.folder == work / "runs/sft/adapter"
        assert isinstance(made.recipe.method, LoraOptions)


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_an_unfinished_run_is_no_policy(
    status: str, work: Path, alone: Callable[..., Path], tmp_path: Path
) -> None:
    run = copied(work, "sft", tmp_path)
    (run / "run.json").write_text(json.dumps(record(run) | {"status": status}))
    with pytest.raises(RecipeError, match="is not finished") as caught:
        plan_of(alone(run))
    assert caught.value.exit_code == 2
    assert status in caught.value.why
    assert "--resume" in caught.value.fix
    assert ".yaml" in caught.value.fix


def test_a_whole_model_is_a_base_and_no_policy(
    alone: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError, match="is a whole model") as caught:
        plan_of(alone(bases("llama")))
    assert caught.value.exit_code == 2
    assert f"model.base: {bases('llama')}" in caught.value.fix


def test_a_policy_of_another_base_is_refused(
    work: Path, alone: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    recipe = alone(work / "runs/sft", model={"base": str(bases("llama", seed=1))})
    with pytest.raises(ModelError, match="another base") as caught:
        plan_of(recipe)
    assert caught.value.exit_code == 4
    assert f"model.base: {bases('llama')}" in caught.value.fix


def test_a_method_that_is_not_the_policys_is_refused(
    work: Path, alone: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError, match=r"differs from that of rlhf\.policy") as caught:
        plan_of(alone(work / "runs/sft", method={"name": "lora", "r": 3}))
    assert caught.value.exit_code == 2
    assert "method.r" in caught.value.why
    assert "leave out" in caught.value.fix


@pytest.mark.parametrize("name", ["sft", "reward"])
def test_a_damaged_adapter_is_refused(
    name: str,
    work: Path,
    alone: Callable[..., Path],
    run_recipe: Callable[..., Sections],
    tmp_path: Path,
) -> None:
    """One bit of the policy's or the reward model's weights."""
    run = copied(work, name, tmp_path)
    file = run / "adapter" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    named = {"sft": work / "runs/sft", "reward": work / "runs/reward"} | {name: run}
    with pytest.raises(IntegrityError) as caught:
        run_recipe(alone(named["sft"], named["reward"]), verb="rlhf")
    assert caught.value.exit_code == 6
    assert "adapter_model.safetensors" in str(caught.value)


def test_the_lock_of_the_last_stage_is_the_chain_again(work: Path) -> None:
    lock = recipe_load.load(work / "runs/rlhf/recipe.lock.yaml", (), None)
    first = recipe_load.load(work / "rlhf.yaml", verb="rlhf")
    assert lock.verb == "rlhf"
    assert lock.recipe.train == first.recipe.train
    assert lock.recipe.ppo == first.recipe.ppo
    found = chain.links(lock, work / "runs/again")
    assert [(link.status, link.folder.name) for link in found] == [
        ("done", "sft"),
        ("done", "reward"),
    ]
    made = plan_make.make(
        lock,
        hardware.detect(),
        output=work / "again",
        chained={link.name: link.source() for link in found},
    )
    assert [part.weight for part in made.rlhf.reward] == [1.0, 0.5]
    assert record(work / "runs/rlhf")["plan"]["values"].keys() == made.as_dict()["values"].keys()
