"""Bases of many families: what loads, what is adapted, and what the plan refuses by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft.utils import transformers_weight_conversion
from safetensors import safe_open
from transformers import CONFIG_MAPPING

from tests.families import FAMILIES, make_family
from tuner.console.console import Console
from tuner.errors import ModelError, RecipeError, TunerError
from tuner.evaluate import generation
from tuner.inference import open_model
from tuner.machine import hardware
from tuner.model import fused_experts, heads, unfit_layers
from tuner.model.heads import head_for
from tuner.model.kernels import fused_lora
from tuner.plan import make as plan_make
from tuner.plan.plan import Plan
from tuner.recipe import history
from tuner.recipe import load as recipe_load
from tuner.run import build


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny base of a family; each is made once."""
    root = tmp_path_factory.mktemp("families")

    def made(name: str) -> Path:
        folder = root / name.replace(" ", "-")
        return folder if folder.exists() else make_family(name, folder)

    return made


@pytest.fixture
def recipe_for(family: Callable[[str], Path], make_recipe: Callable[..., Path]) -> Any:
    """Write the recipe of a short run on a family."""

    def write(name: str, **sections: Any) -> Path:
        model = {"base": str(family(name)), **sections.pop("model", {})}
        sections.setdefault("method", {"name": "lora", "r": 4})
        train = {"max_steps": 2, **sections.pop("train", {})}
        data = {"max_length": 64, **sections.pop("data", {})}
        short = {"samples": 0, "max_rows": 2, "metrics": ["loss"]}
        return make_recipe(model=model, train=train, data=data, eval=short, **sections)

    return write


def planned(recipe: Path, *overrides: str) -> Plan:
    loaded = recipe_load.load(recipe, overrides, "sft")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "none")


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *((name, "eager") for name in ("gemma2", "gptoss", "gptj", "mamba")),
        *((name, "sdpa") for name in ("phi3", "qwen35 with images")),
    ],
)
def test_attention_is_what_a_family_has(name: str, attention: str, recipe_for: Any) -> None:
    """The plan says which, and takes what transformers has."""
    plan = planned(recipe_for(name))
    assert plan.values["model.attention"].value == attention
    assert plan.values["model.attention"].origin.startswith("auto: ")
    if attention == "eager":
        with pytest.raises(RecipeError, match=r"model\.attention: sdpa") as caught:
            planned(recipe_for(name), "model.attention=sdpa")
        assert caught.value.fix == "set model.attention: auto"


def test_eager_attention_where_it_is_asked_for(make_recipe: Callable[..., Path]) -> None:
    """The loaded model has it, rows are not packed, and the scores are those of sdpa."""
    logits = []
    for attention in ("eager", "sdpa"):
        plan = planned(make_recipe(model={"attention": attention}, data={"packing": "auto"}))
        model = build.load(plan)
        assert plan.packing == (attention == "sdpa")
        assert model.config._attn_implementation == (
            "eager" if attention == "eager" else "tuner_rows"
        )
        with torch.no_grad():
            logits.append(model(input_ids=torch.arange(5, 25)[None]).logits)
    assert torch.allclose(*logits, atol=1e-5)
    with pytest.raises(RecipeError, match="packed rows"):
        planned(make_recipe(model={"attention": "eager"}, data={"packing": True}))


def test_the_scores_of_eager_attention_are_counted(make_recipe: Callable[..., Path]) -> None:
    """Heads x layers x rows x the square of the longest row: 4 bytes and those of a product."""
    rows = [{"instruction": "Say it.", "output": "rent " * 90} for _ in range(4)]
    found = {}
    for attention in ("eager", "sdpa"):
        options = {"model": {"attention": attention}, "data": {"packing": False}}
        plan = planned(make_recipe(data_rows=rows, **options), "train.micro_batch_size=4")
        found[attention] = plan.facts["memory"]["activations"]
    longest = max(each.num_tokens for each in plan.prepared.train)
    assert found["eager"] - found["sdpa"] == pytest.approx(2 * 4 * 4 * longest**2 * 8, rel=1e-6)


def test_a_run_before_the_key_resumes() -> None:
    """Its attention was sdpa, whatever the plan writes for `auto` now."""
    now = {"model.attention": "sdpa", "train.batch_size": 4}
    assert history.identity({"train.batch_size": 4}, now) == now
    eager = now | {"model.attention": "eager"}
    assert history.identity({"train.batch_size": 4}, eager) != eager


def trained(record: dict[str, Any]) -> None:
    assert record["status"] == "done"
    assert record["unmoved_tensors"] == []
    proofs = {item["kind"]: item["proof"] for item in record["artefacts"]}
    assert proofs == {"adapter": "equal", "merged": "equal"}


FAST = ("gemma2",)
SLOW = [name for name in FAMILIES if name not in (*FAST, "xlnet") and "images" not in name]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_family_trains_with_the_defaults(
    name: str, recipe_for: Any, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    """From the recipe to artefacts equal to the live model; every tensor moved."""
    trained(run_recipe(recipe_for(name)))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "name",
    [
        "qwen35 with images",
        *(
            pytest.param(f"{name} with images", marks=pytest.mark.slow)
            for name in ("gemma3", "mistral3", "qwen25")
        ),
    ],
)
def test_a_base_that_reads_images_stays_whole(
    name: str,
    recipe_for: Any,
    run_recipe: Callable[..., dict[str, Any]],
    family: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Only its text part is adapted; no tensor of the others is lost, and the adapter's keys are
    those of the class that the checkpoint names."""
    trained(run_recipe(recipe_for(name)))
    files = (family(name), tmp_path / "run" / "merged", tmp_path / "run" / "adapter")
    stored, merged, adapter = (names_in(folder) for folder in files)
    assert any("vision_tower" in key or "visual" in key for key in stored)
    assert merged == stored
    config = json.loads((tmp_path / "run" / "merged" / "config.json").read_text())
    assert (
        config["architectures"]
        == json.loads((files[0] / "config.json").read_text())["architectures"]
    )
    assert all(key.startswith("base_model.model.model.language_model.") for key in adapter)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_an_adapter_of_the_text_half_still_answers(
    recipe_for: Any,
    run_recipe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Earlier versions loaded only that half of Qwen3.5, and named its modules accordingly."""
    with monkeypatch.context() as earlier:
        earlier.setattr(heads, "writer", lambda config: heads.HEADS["language"])
        run_recipe(recipe_for("qwen35 with images", export={"formats": ["adapter"]}))
    assert not [key for key in names_in(tmp_path / "run" / "adapter") if "language_model" in key]
    source = open_model.model_to_open(str(tmp_path / "run"), None, (), hardware.detect(), "chat")
    opened = open_model.load(source, Console(quiet=True))
    assert list(opened.adapters) == ["run"]


def names_in(folder: Path) -> set[str]:
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        return set(tensors.keys())


@pytest.mark.parametrize("options", [{"name": "adalora"}, {"name": "lora", "init": "eva", "r": 2}])
def test_methods_that_need_a_gradient_everywhere(options: dict[str, Any], recipe_for: Any) -> None:
    """None of their modules is in the part that reads images."""
    plan = planned(recipe_for("gemma3 with images", method=options))
    assert plan.setting.targets
    assert not [name for name in plan.setting.targets if "language_model" not in name]
    assert plan.base.context_length == 512
    assert plan.facts["adapted"]["of_layers"] == 2


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("mamba", "out_proj", "read past any adapter"),
        ("falcon_h1", "out_proj", "read past any adapter"),
        ("jamba", "dt_proj", "read past any adapter"),
        ("gemma3n", "correction_coefs", "read past any adapter"),
        ("llama4", "router", "not that of a linear layer"),
        ("zamba2", r".*shared_transformer.*down_proj", "too"),
        ("gemma3 with images", r".*vision_tower.*q_proj", "text alone does not go through it"),
    ],
)
def test_what_no_adapter_works_on(name: str, target: str, why: str, recipe_for: Any) -> None:
    """It is left out of all-linear, and refused by name."""
    method = {"name": "lora", "r": 4, "allow_partial_targets": True}
    everything = planned(recipe_for(name, method=method)).setting.targets
    assert everything
    with pytest.raises(ModelError, match="lora does not work on") as caught:
        planned(recipe_for(name, method={**method, "target_modules": [target]}))
    assert why in caught.value.why
    assert caught.value.exit_code == 4
    assert not [key for key in everything if key in str(caught.value)]


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("name", "method", "target", "why"),
    [
        ("deepseek", {"name": "oft", "block_size": 4}, "kv_b_proj", "a tensor of four axes"),
        ("granite hybrid", {"name": "layernorm"}, "mamba.norm", "read past any adapter"),
    ],
)
def test_layers_that_one_method_does_not_work_on(
    name: str,
    method: dict[str, Any],
    target: str,
    why: str,
    recipe_for: Any,
    run_recipe: Callable[..., dict[str, Any]],
) -> None:
    """It trains all others, and names these where the recipe does; others take them."""
    done = run_recipe(recipe_for(name, method=method))
    assert done["unmoved_tensors"] == []
    assert not [
        key for key in planned(recipe_for(name, method=method)).setting.targets if target in key
    ]
    with pytest.raises(ModelError, match=f"{method['name']} does not work on") as caught:
        planned(recipe_for(name, method={**method, "target_modules": [target]}))
    assert why in caught.value.why
    if name == "deepseek":
        lora = planned(recipe_for(name)).setting.targets
        assert any(key.endswith(target) for key in lora)


def test_a_layer_with_its_own_forward_is_tried() -> None:
    """Falcon's layer is a linear one; a router that returns two tensors is not."""

    class Plain(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input @ self.weight.T

    class Router(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> Any:
            return super().forward(input), None

    with torch.device("meta"):
        assert unfit_layers.maps_plainly(Plain(4, 3))
        assert unfit_layers.maps_plainly(torch.nn.Linear(4, 3))
        assert not unfit_layers.maps_plainly(Router(4, 3))


def test_a_fused_layer_may_be_scaled_in_place() -> None:
    """As Gemma-3n scales some of its layers' results; the gradients are those of peft's own way."""
    gradients = []
    for fused in (True, False):
        torch.manual_seed(0)
        network = torch.nn.ModuleDict({"layer": torch.nn.Linear(6, 5)})
        import peft

        config = peft.LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False)
        if fused:
            fused_lora.register(config)
        layer = peft.get_peft_model(network, config).base_model.model["layer"]  # type: ignore[arg-type]
        result = layer(torch.ones(2, 3, 6))
        result *= 3
        result.square().sum().backward()
        gradients.append([p.grad for p in layer.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == 2
    assert all(torch.allclose(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("qwen35", "layer 0 keeps a state"),
        ("qwen35 with images", "layer 0 keeps a state"),
        ("lfm2", "layer 0 keeps a state"),
        ("qwen3 next", "layer 0 keeps a state"),
        ("jamba", "layer 0 keeps a state"),
        ("falcon_h1", "layer 0 keeps a state"),
        ("nemotron", "layer 0 keeps a state"),
        ("granite hybrid", "layer 0 keeps a state"),
        ("mamba", "layer 0 keeps a state"),
        ("rwkv", "keep no keys and values"),
        ("deepseek", "different sizes"),
        ("falcon", "its layers keep 1 heads, peft makes 4"),
        ("phi3", "no further than 8 tokens"),
        ("gemma3", "no further than 8 tokens"),
        ("llama4", "no further than 8 tokens"),
        ("gemma3n", "look up the token ids"),
    ],
)
def test_a_prefix_is_refused_where_it_has_no_place(name: str, why: str, recipe_for: Any) -> None:
    """By the plan, exit 4; what the message says to do instead is possible."""
    for method in ("ptuning_v2", "prefix"):
        recipe = recipe_for(name, method={"name": method, "num_virtual_tokens": 8})
        with pytest.raises(TunerError) as caught:
            planned(recipe)
        assert caught.value.exit_code == 4
        assert why in str(caught.value)
    instead = {"name": "prompt"}
    if "no further" in why:
        assert "method.num_virtual_tokens: 7 or less" in caught.value.fix
        instead = {"name": "prefix", "num_virtual_tokens": 7}
    if name == "gemma3n":
        instead = {"name": "lora"}
    planned(recipe_for(name, method=instead))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["gemma2", pytest.param("mpt", marks=pytest.mark.slow)])
def test_virtual_tokens_that_just_fit(
    name: str, recipe_for: Any, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    """A prefix one token shorter than the window; embeddings where peft finds no heads."""
    method = {"name": "prefix" if name == "gemma2" else "prompt", "num_virtual_tokens": 7}
    assert run_recipe(recipe_for(name, method=method))["unmoved_tensors"] == []


@pytest.mark.parametrize("name", ["rwkv", "mamba"])
def test_answers_do_not_depend_on_padding(name: str, recipe_for: Any) -> None:
    """Recurrent families: prompts of different lengths together, and each alone."""
    plan = planned(recipe_for(name))
    rows = list(plan.prepared.eval)
    rows += [replace(rows[0], prompt_ids=rows[0].prompt_ids[:3])]
    model = build.load(plan)
    alone = [generation.answer(plan, model, [row])[0] for row in rows]
    assert generation.answer(plan, model, rows) == alone


def test_a_base_that_reads_both_ways_is_refused(family: Callable[[str], Path]) -> None:
    """XLNet would see the tokens that it has to predict."""
    config = json.loads((family("xlnet") / "config.json").read_text())
    with pytest.raises(RecipeError, match="the base is an encoder") as caught:
        head_for("generation", config)
    assert "reads a text both ways" in caught.value.why


def test_a_base_that_reads_both_ways_takes_no_chats(recipe_for: Any) -> None:
    """The plan of a recipe that names no task: rows without labels are nothing for it."""
    with pytest.raises(RecipeError, match="needs to know the classes") as caught:
        planned(recipe_for("xlnet"))
    assert "use a base that writes text: BERT, XLNet" in caught.value.fix
    labels = {"labels": "auto", "template": "prompt_completion"}
    rows = [{"prompt": f"Go {n}?", "completion": "yes" if n % 2 else "no"} for n in range(12)]
    data = {**labels, "eval": 2}
    assert planned(recipe_for("xlnet", data=data, data_rows=rows)).head.name == "classes"


def test_the_rank_of_a_layer_is_at_most_its_width(make_recipe: Callable[..., Path]) -> None:
    """A rank above the width of every layer that is adapted is refused."""
    with pytest.raises(RecipeError, match=r"method\.r: 100000 is above") as caught:
        planned(make_recipe(method={"name": "lora", "r": 100000}))
    assert "set method.r: 64 or less" in caught.value.fix
    planned(make_recipe(method={"name": "lora", "r": 64}))


def test_peft_is_asked_about_every_family_whose_experts_it_knows() -> None:
    known: Any = transformers_weight_conversion
    families = {
        name: family
        for name, family in known._MODEL_TO_CONVERSION_PATTERN.items()
        if known._MOE_FUSED_TARGETS.get(family) and name in CONFIG_MAPPING
    }
    assert len(families) > 20
    for name, family in families.items():
        layers = [f"layers.0.mlp.{each}" for each in known._MOE_TARGET_MODULE_MAPPING[family]]
        config = {**CONFIG_MAPPING[name]().to_dict(), "model_type": name}
        assert fused_experts.taken(config, layers) == layers, name


@pytest.mark.usefixtures("in_process")
def test_layers_that_peft_takes_for_experts_are_said(
    recipe_for: Any, run_recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Qwen3-Next's shared expert has the names that its experts had: they are adapted instead."""
    recipe = recipe_for("qwen3 next", export={"formats": ["adapter"]})
    plan = planned(recipe)
    (said,) = [text for text in plan.warnings if "expert" in text]
    assert "peft takes down_proj, gate_proj and up_proj of qwen3_next for experts: 6 layers" in said
    assert "the fused experts are adapted in their place" in said
    run_recipe(recipe)
    names = names_in(tmp_path / "run" / "adapter")
    assert any(".mlp.experts." in name for name in names)
    assert not any(".shared_expert." in name for name in names)
    parts = {name.partition(".lora_")[0] for name in names}
    assert len(parts) == plan.facts["adapted"]["modules"]
    method = {"name": "lora", "r": 4, "init": "olora", "rank_pattern": {"shared_expert_gate": 1}}
    with pytest.raises(RecipeError, match="init: olora does not work on down_proj") as caught:
        planned(recipe_for("qwen3 next", method=method))
    left = yaml.safe_load(re.findall(r"target_modules: (\[.*\])", caught.value.fix)[0])
    assert planned(recipe_for("qwen3 next", method={**method, "target_modules": left})).setting


NARROW = [("qwen35", "pissa"), ("gemma3n", "olora"), ("gemma3n", "eva")]


@pytest.mark.parametrize(("name", "init"), NARROW)
def test_an_adapter_has_no_more_directions_than_its_layer(
    name: str, init: str, recipe_for: Any
) -> None:
    """Where they are taken from the base or its inputs: the ranks that the error names do."""
    method = {"name": "lora", "r": 16, "init": init}
    with pytest.raises(RecipeError, match=f"method.init: {init} needs more directions") as caught:
        planned(recipe_for(name, method=method))
    pattern = yaml.safe_load(re.findall(r"method\.rank_pattern: (\{.*\})", caught.value.fix)[0])
    assert planned(recipe_for(name, method={**method, "rank_pattern": pattern})).setting.targets
    larger = {end: most + 1 for end, most in pattern.items()}
    with pytest.raises(RecipeError, match="needs more directions"):
        planned(recipe_for(name, method={**method, "rank_pattern": larger}))
    planned(recipe_for(name, method={"name": "lora", "r": 16}))


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("name", "init"), [*NARROW, ("llama4", "eva")])
def test_directions_of_the_base_in_narrow_layers(
    name: str, init: str, recipe_for: Any, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    """Llama-4's layers next to its experts read all rows in one."""
    method = {"name": "lora", "r": 4, "init": init}
    assert run_recipe(recipe_for(name, method=method))["status"] == "done"


@pytest.mark.parametrize("matrix", ["lm_head", "embed_tokens"])
def test_the_matrices_of_tokens_are_no_targets(
    matrix: str, make_recipe: Callable[..., Path]
) -> None:
    """They are refused with another way, which works."""
    method = {"name": "lora", "target_modules": [matrix]}
    with pytest.raises(ModelError, match=f"lora does not adapt {matrix}") as caught:
        planned(make_recipe("llama-tied", method=method))
    assert "method.name: trainable_tokens" in caught.value.fix
    planned(make_recipe("llama-tied", method={"name": "trainable_tokens", "tokens": ["."]}))
    both = {"name": "lora", "target_modules": ["q_proj", matrix]}
    with pytest.raises(ModelError, match=f"lora does not adapt {matrix}") as caught:
        planned(make_recipe("llama", method=both))
    assert f"method.modules_to_save: [{matrix}]" in caught.value.fix
    instead = {"name": "lora", "target_modules": ["q_proj"], "modules_to_save": [matrix]}
    assert planned(make_recipe("llama", method=instead)).setting.saved
