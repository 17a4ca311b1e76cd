"""Runs that start from an adapter: folded into the base, or trained further."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.conftest import rows, write_rows
from tests.export.exporting import ROWS, logits
from tuner.console.console import Console
from tuner.errors import IntegrityError, Interrupted, ModelError, RecipeError
from tuner.inference import open_model
from tuner.machine import hardware
from tuner.model import fold, folded
from tuner.model.adapters import saved_models
from tuner.model.folded import Folded
from tuner.plan import make as plan_make
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load
from tuner.run import build, resume, spine
from tuner.tasks import step_end
from tuner.tasks.sft import stream_of

pytestmark = pytest.mark.usefixtures("in_process_here")
LORA = {"name": "lora", "r": 4, "dropout": 0.1}


class Project:
    """A folder with a base, rows, and runs that are made once."""

    def __init__(self, folder: Path, bases: Callable[..., Path]) -> None:
        self.folder, self.bases, self.base = folder, bases, bases("llama")
        write_rows(folder / "train.jsonl", rows(12))
        write_rows(folder / "new.jsonl", rows(8, start=40))
        write_rows(folder / "eval.jsonl", rows(3, start=100))

    def recipe(self, name: str, method: Any, **sections: Any) -> Path:
        recipe = {
            "model": {"base": str(self.base), **sections.pop("model", {})},
            "data": {
                "train": "train.jsonl",
                "eval": "eval.jsonl",
                "template": "instruction",
                **sections.pop("data", {}),
            },
            "method": method,
            "train": {
                **{"epochs": 1, "batch_size": 4, "learning_rate": 0.02, "save_steps": 1},
                **sections.pop("train", {}),
            },
            "eval": {"samples": 0, "enabled": False},
            "export": {"formats": ["adapter"]},
            **sections,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
        return path

    def plan(self, recipe: Path, out: str = "planned", *overrides: str) -> Plan:
        loaded = recipe_load.load(recipe, overrides)
        return plan_make.make(loaded, hardware.detect(), output=self.folder / out)

    def run(self, name: str, method: Any, **sections: Any) -> Path:
        """The folder of a run, which is made unless it is there."""
        folder = self.folder / name
        if not folder.exists():
            plan = self.plan(self.recipe(name, method, **sections), name)
            spine.run(plan, resume=False, console=Console(quiet=True))
        return folder

    def one(self) -> Path:
        return self.run("one", LORA)

    def further(self) -> Path:
        """The weights of `one`, trained further on other rows."""
        model, data = {"adapter": str(self.one())}, {"train": "new.jsonl"}
        return self.run("further", {"continue": True}, model=model, data=data)

    def above(self) -> Path:
        """A new adapter on the base with `one` folded into it."""
        model, data = {"adapter": str(self.one())}, {"train": "new.jsonl"}
        formats = {"formats": ["adapter", "merged"]}
        method = {"name": "lora", "r": 2}
        return self.run("above", method, model=model, data=data, export=formats)

    def plain(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.base)


@pytest.fixture(scope="module")
def in_process_here() -> Any:
    """The fresh processes of the module's runs, here."""
    from tests import here
    from tuner.machine import processes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "fresh", here.fresh)
        yield


@pytest.fixture(scope="module")
def work(
    tmp_path_factory: pytest.TempPathFactory, bases: Callable[..., Path], in_process_here: None
) -> Project:
    return Project(tmp_path_factory.mktemp("start"), bases)


def manifest(folder: Path) -> Any:
    return json.loads((folder / "MANIFEST.json").read_text())["extra"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter/adapter_model.safetensors")


def exact(run: Path, base: Any) -> Any:
    """The base with a run's adapter merged by peft itself, everything in float64."""
    return PeftModel.from_pretrained(base.double(), run / "adapter").merge_and_unload()


def test_the_same_weights_go_on_as_plain_peft_trains_them(work: Project) -> None:
    """The first step, without dropout: peft loads the adapter, torch's AdamW takes the step."""
    one, sections = work.one(), {"batch_size": 4, "max_steps": 1, "scheduler": "constant"}
    train = {**sections, "learning_rate": 0.003, "warmup": 0}
    method = {"continue": True, "dropout": 0.0}
    run = work.run("step", method, model={"adapter": str(one)}, train=train)
    plan = work.plan(work.folder / "step.yaml")
    model = PeftModel.from_pretrained(work.plain(), one / "adapter", is_trainable=True).eval()
    order = plan_rows(plan)
    count = sum(example.num_targets for example in order)
    for example in order:
        ids, learned = torch.tensor([example.input_ids]), torch.tensor(example.supervised[1:])
        scores = model(input_ids=ids).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="none")
        loss = losses[learned].sum()
        (loss / count).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    torch.optim.AdamW(trained, lr=0.003, weight_decay=0.0).step()
    expected = {
        n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad
    }
    found = weights(run)
    assert found.keys() == expected.keys()
    before = weights(one)
    for name, tensor in found.items():
        assert not torch.equal(tensor, before[name])
        torch.testing.assert_close(tensor, expected[name].detach(), atol=2e-5, rtol=0)


def learning(model: Any) -> dict[str, torch.Tensor]:
    """The trainable tensors, under the names that an adapter's file has for them."""
    return {
        name.replace(".default", ""): tensor
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }


def plan_rows(plan: Plan) -> list[Any]:
    return stream_of(plan, plan.stages[0], 0).step(0)


def test_a_run_that_goes_on_begins_with_the_weights_that_were_there(work: Project) -> None:
    """Steps without effect change nothing but what is refused: the start is the run's own end."""
    work.further()
    plan = work.plan(work.folder / "further.yaml")
    start = build.start(plan, build.load(plan)).model
    state = learning(start)
    before = weights(work.one())
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert all(not torch.equal(weights(work.further())[name], before[name]) for name in before)
    assert plan.recipe.method.r == 4  # type: ignore[attr-defined]
    assert plan.values["method.r"].origin == "model.adapter"


def test_the_folded_base_is_what_peft_merges_in_float64(work: Project) -> None:
    below = work.one() / "adapter"
    base = fold.onto(work.plain(), [Folded.of("one", below)], "CAUSAL_LM")
    expected = dict(exact(work.one(), work.plain()).named_parameters())
    untouched = dict(work.plain().named_parameters())
    moved = 0
    for name, tensor in base.named_parameters():
        assert torch.equal(tensor, expected[name].float()), name
        moved += not torch.equal(tensor, untouched[name])
    assert moved == 14
    assert not hasattr(base, "peft_config")


def test_a_new_method_on_top_is_exported_with_its_chain(work: Project) -> None:
    above = work.above()
    known = manifest(above / "adapter")
    (entry,) = known["chain"]
    assert (entry["how"], entry["from_here"]) == ("folded", "../one/adapter")
    assert entry["sha256"] == folded.digest(work.one() / "adapter")
    assert known["proof"] == manifest(above / "merged")["proof"] == "equal"
    assert known["base_fingerprint"] != manifest(work.one() / "adapter")["base_fingerprint"]
    card = (above / "adapter/README.md").read_text()
    assert "- folded before training: the adapter `one`" in card
    assert '"FOLDER OF one").merge_and_unload()' in card
    both = exact(above, exact(work.one(), work.plain())).float()
    merged = AutoModelForCausalLM.from_pretrained(above / "merged")
    torch.testing.assert_close(logits(merged, ROWS), logits(both, ROWS), atol=1e-4, rtol=1e-4)
    # Without the first adapter it is another model: the comparison can fail.
    alone = exact(above, work.plain()).float()
    assert (logits(merged, ROWS) - logits(alone, ROWS)).abs().max() > 0.01


@pytest.mark.parametrize("name", ["above", "further"])
def test_such_a_run_is_opened_for_chat_with_all_that_is_below(work: Project, name: str) -> None:
    run = getattr(work, name)()
    source = open_model.model_to_open(str(run), None, (), hardware.detect(), "chat")
    opened = open_model.load(source, Console(quiet=True))
    start = work.plain() if name == "further" else exact(work.one(), work.plain())
    both = exact(run, start).float()
    found = logits(opened.active.network, ROWS)
    torch.testing.assert_close(found, logits(both, ROWS), atol=1e-4, rtol=1e-4)


def test_a_chain_may_have_several_links(work: Project) -> None:
    """On top of `above`: both are folded, in their order; its own weights further: only `one`."""
    model = {"adapter": str(work.above())}
    higher = work.run("higher", {"name": "ia3"}, model=model)
    chain = [
        (each["name"].rpartition("/")[2], each["how"])
        for each in manifest(higher / "adapter")["chain"]
    ]
    assert chain == [("one", "folded"), ("above", "folded")]
    plan = work.plan(work.recipe("again", {"continue": True}, model=model))
    assert [each.folder.parent.name for each in plan.base.folded] == ["one"]
    assert [each["how"] for each in plan.start.chain(work.folder)] == ["folded", "continued"]  # type: ignore[union-attr]
    origin = saved_models.find(str(higher), Path(), "export")
    assert [each.folder.parent.name for each in origin.below] == ["one", "above"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["further", "above"])
def test_such_a_run_resumes_to_the_same_bytes(work: Project, name: str, tmp_path: Path) -> None:
    """Stopped after its first step; with dropout in `further`, whose method has it."""
    run = getattr(work, name)()
    loaded = recipe_load.load(work.folder / f"{name}.yaml")
    plan = plan_make.make(loaded, hardware.detect(), output=tmp_path / "run")
    stop_after_first_step(plan)
    record = spine.run(plan, resume=True, console=Console(quiet=True))
    assert record["resumes"][-1]["from_step"] == 1
    file = "adapter/adapter_model.safetensors"
    assert (tmp_path / "run" / file).read_bytes() == (run / file).read_bytes()


def stop_after_first_step(plan: Plan) -> None:
    """Run a plan until its first checkpoint is sealed."""
    close = step_end.close

    def first(leg: Any) -> bool:
        close(leg)
        raise Interrupted(15, "stopped by the test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_end, "close", first)
        with pytest.raises(Interrupted):
            spine.run(plan, resume=False, console=Console(quiet=True))


def test_an_adapter_of_peft_alone_can_be_folded_and_trained_further(
    work: Project, tmp_path: Path
) -> None:
    """It says nothing about its base: names and shapes are compared, and the plan warns."""
    plain = tmp_path / "plain"
    model = PeftModel.from_pretrained(work.plain(), work.one() / "adapter", is_trainable=True)
    model.save_pretrained(plain)
    for method in ({"continue": True}, {"name": "lora", "r": 2}):
        plan = work.plan(work.recipe("plain", method, model={"adapter": str(plain)}))
        assert any("does not say which base" in text for text in plan.warnings)
    further = work.plan(work.recipe("plain", {"continue": True}, model={"adapter": str(plain)}))
    method = further.recipe.method
    assert (method.r, method.dropout, len(method.target_modules)) == (4, 0.1, 14)  # type: ignore[attr-defined]
    assert further.facts["parameters"]["trainable"] == sum(
        t.numel() for t in weights(work.one()).values()
    )


def test_an_adapter_of_another_base_is_refused_by_the_plan(work: Project) -> None:
    other = work.bases("llama", "chatml", 1)
    recipe = work.recipe(
        "other", {"name": "lora"}, model={"adapter": str(work.one()), "base": str(other)}
    )
    with pytest.raises(ModelError) as caught:
        work.plan(recipe)
    assert "was trained on another base" in caught.value.what
    assert f"set model.base: {work.base}," in caught.value.fix


def test_a_changed_adapter_is_refused_when_the_run_goes_on(work: Project, tmp_path: Path) -> None:
    run = work.above()
    shutil.copytree(work.one() / "adapter", tmp_path / "copy")
    (tmp_path / "copy/MANIFEST.json").unlink()
    file = tmp_path / "copy/adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] * 1.5}, file, metadata={"format": "pt"})
    plan = work.plan(work.folder / "above.yaml", "above", f"model.adapter={tmp_path / 'copy'}")
    with pytest.raises(IntegrityError) as caught:
        resume.newest_checkpoint(plan, run)
    assert any("model.adapter_sha256" in line for line in caught.value.problems)
    # Moved and unchanged it is the same run.
    shutil.copytree(work.one() / "adapter", tmp_path / "moved")
    plan = work.plan(work.folder / "above.yaml", "above", f"model.adapter={tmp_path / 'moved'}")
    assert resume.newest_checkpoint(plan, run)[0] is not None


def test_a_base_whose_folded_adapter_has_changed_is_not_opened(work: Project) -> None:
    wrong = Folded("one", work.one() / "adapter", "0" * 64)
    with pytest.raises(IntegrityError, match="has changed"):
        fold.onto(work.plain(), [wrong], "CAUSAL_LM")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"method": {"continue": True, "r": 8}}, "was trained with method.r 4 .here 8."),
        ({"method": {"name": "dora", "continue": True}}, "method.name lora .here dora."),
        (
            {"method": {"name": "lora"}, "model": {"quantize": "nf4"}},
            "cannot be folded into weights in nf4",
        ),
        ({"method": {"continue": True}, "model": {"quantize": "nf4"}}, "set model.quantize: none"),
        ({"method": {"continue": True}, "train": {"qat": "int4"}}, "leave out train.qat"),
        (
            {"method": {"name": "lora"}, "export": {"formats": ["adapter", "gguf-adapter"]}},
            "gguf-adapter cannot hold",
        ),
    ],
)
def test_what_contradicts_the_adapter_is_refused_by_the_plan(
    work: Project, sections: Any, said: str
) -> None:
    given = dict(sections)
    model = {"adapter": str(work.one()), **given.pop("model", {})}
    with pytest.raises(RecipeError) as caught:
        work.plan(work.recipe("wrong", given.pop("method"), model=model, **given))
    assert re.search(said, str(caught.value)), str(caught.value)


def test_virtual_tokens_can_be_neither_folded_nor_trained_further(work: Project) -> None:
    prefix = work.run("prefix", {"name": "ptuning_v2", "num_virtual_tokens": 2})
    for method in ({"name": "lora"}, {"continue": True}):
        with pytest.raises(ModelError) as caught:
            work.plan(work.recipe("wrong", method, model={"adapter": str(prefix)}))
        assert "cannot be" in caught.value.what


def test_what_can_go_on_needs_an_adapter(work: Project) -> None:
    with pytest.raises(RecipeError, match=r"model\.adapter is not set"):
        work.plan(work.recipe("wrong", {"name": "lora", "continue": True}))


def test_the_plan_counts_the_memory_of_folding(work: Project) -> None:
    """Base and copy, a layer in float64, the adapter's file; nothing where nothing is folded."""
    work.above(), work.further()
    memory = work.plan(work.folder / "above.yaml").facts["memory"]
    parameters = sum(p.numel() for p in work.plain().parameters())
    file = (work.one() / "adapter/adapter_model.safetensors").stat().st_size
    assert memory["folding"] == (550 << 20) + 2 * 4 * parameters + 24 * 64 * 96 + file
    assert memory["peak"] >= memory["folding"]
    assert "folding" not in work.plan(work.folder / "further.yaml").facts["memory"]
