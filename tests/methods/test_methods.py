"""What the methods train, and what METHODS says they can do: H07, H09, N12, N13."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import oracle, tiny
from tests.tiny import KINDS
from tuner.errors import ModelError, RecipeError
from tuner.export import merged, run_end
from tuner.machine import hardware
from tuner.methods import METHODS
from tuner.methods.lora import LoraOptions
from tuner.methods.options import Setting
from tuner.model import base, layers, trained_weights
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.run import build
from tuner.tasks import trained as tasks_trained

PROBES = torch.randint(0, 500, (3, 24), generator=torch.Generator().manual_seed(3))
# Query and value projections of the families; GPT-2 has one matrix for query, key and value.
NAMED = {kind: ["q_proj", "v_proj"] for kind in KINDS} | {"gpt2": ["c_attn"]}
REGEX = dict.fromkeys(KINDS, r".*\.layers\.\d+\.self_attn\.[kq]_proj") | {
    "gpt2": r"transformer\.h\.[01]\.mlp\.c_(fc|proj)"
}


def make(recipe: Path, verb: str | None = "sft") -> plan.Plan:
    loaded = recipe_load.load(recipe, verb=verb)
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "unused")


def built(made: plan.Plan) -> tasks_trained.Trained:
    return build.start(made, build.load(made))


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    network.eval()
    rows = [network(input_ids=row[None], use_cache=False).logits[0] for row in PROBES]
    return torch.stack(rows)


@dataclass
class Ran:
    """A run that stops before its export."""

    plan: Any = None
    trained: Any = None
    losses: tuple[float, ...] = ()


@pytest.fixture
def train(
    monkeypatch: pytest.MonkeyPatch,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> Callable[..., Ran]:
    """Train a recipe made of the given sections, without exporting, and return what is live."""

    def go(kind: str = "llama", **sections: Any) -> Ran:
        ran = Ran()

        def keep(made: Any, trained: Any, fingerprint: str) -> list[Any]:
            ran.plan, ran.trained = made, trained
            return []

        monkeypatch.setattr(run_end, "export_run", keep)
        sections = {"eval": {"enabled": False, "samples": 0}, **sections}
        if sections.get("method", {}).get("name") == "staged":
            sections["train"] = {"learning_rate": "auto", **sections.get("train", {})}
        out = f"run{len(list(tmp_path.glob('run*')))}"
        run_recipe(make_recipe(kind, **sections), out=out)
        lines = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        ran.losses = tuple(json.loads(line)["loss"] for line in lines)
        return ran

    return go


# Options of the methods that cannot do without.
OPTIONS: dict[str, dict[str, Any]] = {"trainable_tokens": {"tokens": ["."]}}
METHOD_CASES: list[dict[str, Any]] = [
    {"name": "lora", "r": 4},
    {"name": "lora", "r": 4, "target_modules": "named"},
    {"name": "lora", "r": 4, "target_modules": "regex"},
    {"name": "dora", "r": 4},
    {"name": "full"},
    {"name": "last_layer"},
    {"name": "staged"},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "method", METHOD_CASES, ids=lambda method: "-".join(map(str, method.values()))
)
def test_the_plan_counts_what_is_built(
    kind: str, method: dict[str, Any], make_recipe: Callable[..., Path]
) -> None:
    """Trainable and total parameters, known before any weight is read, are those of the model."""
    targets = {"named": NAMED, "regex": REGEX}.get(method.get("target_modules", ""))
    if targets:
        method = {**method, "target_modules": targets[kind]}
    train = {"learning_rate": "auto"} if method["name"] == "staged" else {}
    made = make(make_recipe(kind, method=method, train=train))
    network = build.load(made)
    total = sum(parameter.numel() for parameter in network.parameters())
    trained = build.start(made, network)
    parameters = dict(trained.model.named_parameters())
    in_stages = [
        sum(parameters[name].numel() for name in set_of_stage(made, trained, stage))
        for stage in made.stages
    ]
    facts = made.facts["parameters"]
    assert (facts["total"], facts["trainable"]) == (total, max(in_stages))
    if targets:
        wrapped = {name.split(".lora_")[0] for name in parameters if ".lora_A." in name}
        assert {name.removeprefix("base_model.model.") for name in wrapped} == {
            *made.setting.targets
        }
        endings = {name.rsplit(".", 1)[-1] for name in made.setting.targets}
        assert endings == ({*targets[kind]} if isinstance(targets[kind], list) else endings)
        assert 0 < facts["trainable"] < total


def set_of_stage(made: plan.Plan, trained: tasks_trained.Trained, stage: Any) -> set[str]:
    if not made.method.adapter:
        from tuner.methods import full

        full.set_trainable(trained.model, stage.train)
    return {name for name, p in trained.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_headers_and_config_give_the_same_skeleton(
    kind: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    """Read from the stored shapes, or built on the meta device where there are none."""
    folder = bases(kind)
    shutil.copy(folder / "config.json", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    stored = layers.read(base.Base(kind, "folder", folder, config), "language")
    from_config = layers.read(base.Base(kind, "folder", tmp_path, config), "language")
    assert stored == from_config
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert stored.total == sum(parameter.numel() for parameter in network.parameters())
    assert stored.tied == (kind in ("llama-tied", "gpt2"))
    parameters = dict(network.named_parameters())
    assert len(stored.norms) == 5
    assert all(parameters[f"{name}.weight"].ndim == 1 for name in stored.norms)
    assert {parameters[name].ndim for name in stored.experts} == (
        {3} if kind == "mixtral" else set()
    )
    assert len(stored.experts) == (4 if kind == "mixtral" else 0)


@pytest.mark.parametrize("head", ["reward", "classes"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_s_skeleton_and_its_lora_are_known_from_the_headers(
    kind: str, head: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    """As on the meta device, where peft puts LoRA on the model."""
    folder = bases(kind)
    config = json.loads((folder / "config.json").read_text())
    for number, labels in enumerate(({}, {"id2label": {"0": "a", "1": "b", "2": "c"}})):
        changed = config | labels
        empty = tmp_path / str(number)
        empty.mkdir()
        (empty / "config.json").write_text(json.dumps(changed))
        shutil.copytree(folder, tmp_path / f"stored{number}")
        (tmp_path / f"stored{number}/config.json").write_text(json.dumps(changed))
        found = [
            base.Base(kind, "folder", each, changed)
            for each in (tmp_path / f"stored{number}", empty)
        ]
        stored, built = (layers.read(each, head) for each in found)
        assert stored == built
        options = LoraOptions(name="lora", r=3)
        ends = ("q_proj", "c_attn", "o_proj")
        targets = tuple(name for name in built.linears if name.endswith(ends))
        setting = Setting(options, changed, "SEQ_CLS", targets)
        method = METHODS["lora"]
        trained = trained_weights.of(found[0], head, stored, method, setting)
        count = trained_weights.numbers(trained)
        wrapped = peft.get_peft_model(layers.empty(found[1], head), method.config(setting))
        assert count == sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


def test_checkpoints_of_older_tools_are_read_alike(
    bases: Callable[..., Path], tmp_path: Path
) -> None:
    """A tied head stored all the same; GPT-2 as on the Hub, without prefix and with buffers."""
    for kind in ("llama-tied", "gpt2"):
        folder = shutil.copytree(bases(kind), tmp_path / kind)
        tensors = load_file(folder / "model.safetensors")
        if kind == "gpt2":
            tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
            tensors["h.0.attn.bias"] = torch.ones(1, 1, 512, 512)
            tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        else:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        old = layers.read(base.Base(kind, "folder", folder, config), "language")
        assert old == layers.read(base.Base(kind, "folder", bases(kind), config), "language")


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_is_the_final_block_norm_and_head(
    kind: str, make_recipe: Callable[..., Path]
) -> None:
    trained = built(make(make_recipe(kind, method={"name": "last_layer"})))
    chosen = {name for name, p in trained.model.named_parameters() if p.requires_grad}
    block = {n for n, _ in trained.model.named_parameters() if ".layers.1." in n or ".h.1." in n}
    rest = {
        "gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias", "transformer.wte.weight"},
        "llama-tied": {"model.norm.weight", "model.embed_tokens.weight"},
    }.get(kind, {"model.norm.weight", "lm_head.weight"})
    assert block
    assert chosen == block | rest


def test_names_that_match_nothing_are_refused(make_recipe: Callable[..., Path]) -> None:
    """H07"""
    for wanted, named in (
        (["q_proj", "FAKE"], "FAKE"),
        (["FAKE"], "FAKE"),
        (r".*\.nothing_\d", "nothing"),
    ):
        recipe = make_recipe("llama", method={"name": "lora", "target_modules": wanted})
        with pytest.raises(ModelError, match="does not have") as caught:
            make(recipe)
        assert caught.value.exit_code == 4
        assert named in caught.value.why
        assert "q_proj" in caught.value.why
    recipe = make_recipe("llama", method={"name": "lora", "target_modules": ".*[unclosed"})
    with pytest.raises(RecipeError, match="regular expression") as refused:
        make(recipe)
    assert refused.value.exit_code == 2
    assert "unterminated" in refused.value.why


def test_a_part_of_the_layers_needs_leave(
    make_recipe: Callable[..., Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    """H07: one of four layers by a regular expression: refused unless the recipe allows it, or
    names the layer by its number."""
    deep = {**tiny.ROPE, "num_hidden_layers": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "ROPE", deep)
        folder = tiny.make_model("llama", tmp_path / "deep")
    method = {"name": "lora", "target_modules": r"model\.layers\.3\..*_proj"}
    with pytest.raises(ModelError, match="only part of the model") as caught:
        make(make_recipe(model={"base": str(folder)}, method=method))
    assert "7 modules in 1 of 4 layers" in caught.value.why
    allowed = make(
        make_recipe(model={"base": str(folder)}, method=method | {"allow_partial_targets": True})
    )
    assert allowed.facts["adapted"]["modules"] == 7
    by_number = make(make_recipe(model={"base": str(folder)}, method={"layers": [3]}))
    assert by_number.setting.targets == allowed.setting.targets


def randomise(network: Any) -> None:
    """Give every adapter tensor a value of its own."""
    generator = torch.Generator().manual_seed(11)
    for name, parameter in network.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 0.5 + torch.rand(parameter.shape, generator=generator)
        elif "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["dora", "rslora", "lora"])
def test_forward_merge_and_unmerge_against_the_oracle(
    kind: str, name: str, make_recipe: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """N12, N13: GPT-2's c_proj is square and stored transposed: an axis mixed up would not be
    noticed."""
    method = {"name": name, "r": 16, "alpha": 32}
    network = built(make(make_recipe(kind, method=method))).model
    randomise(network)
    reference = AutoModelForCausalLM.from_pretrained(bases(kind), dtype=torch.float32)
    scale = 32 / math.sqrt(16) if name == "rslora" else 32 / 16
    changed = 0
    for path, layer in network.get_base_model().named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        assert layer.scaling["default"] == pytest.approx(scale)
        plain = reference.get_submodule(path)
        a, b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
        if name == "dora":
            length = layer.lora_magnitude_vector["default"].weight.data
            oracle.set_weight(
                plain, oracle.dora_weight(oracle.matrix(plain), a, b, scale, length.flatten())
            )
        else:
            oracle.set_weight(plain, oracle.matrix(plain) + scale * b @ a)
        changed += 1
    assert changed == {"gpt2": 8, "llama": 14}[kind]
    wanted = logits(reference)
    before = {n: p.clone() for n, p in network.named_parameters() if ".base_layer." in n}
    size = wanted.abs().max()
    assert (logits(network) - wanted).abs().max() / size < 1e-5
    network.merge_adapter()
    assert (logits(network) - wanted).abs().max() / size < 1e-5
    network.unmerge_adapter()
    for n, p in network.named_parameters():
        if n in before:
            assert (p - before[n]).abs().max() < 1e-6, n
    assert (logits(network.merge_and_unload()) - wanted).abs().max() / size < 1e-5


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "full", "last_layer", "staged"])
def test_the_table_says_what_a_method_can_do(
    name: str, train: Callable[..., Ran], tmp_path: Path
) -> None:
    """Packed, padded and recomputed give the same losses; what is mergeable merges exactly.

    Whole runs of the methods that train linear layers; tests/methods/test_capabilities.py has every
    method, one step each.
    """
    row = METHODS[name]
    method = {"name": name}
    packed = train(method=method, data={"packing": True})
    padded = train(method=method, data={"packing": False})
    recomputed = train(method=method, train={"gradient_checkpointing": True})
    assert (row.packing, row.gradient_checkpointing, row.mergeable) == (True, True, True)
    assert packed.plan.packing
    assert not padded.plan.packing
    assert recomputed.plan.gradient_checkpointing
    assert len(packed.losses) >= 4
    assert packed.losses == pytest.approx(padded.losses, rel=1e-5)
    assert packed.losses == pytest.approx(recomputed.losses, rel=1e-5)
    live = logits(packed.trained.model)
    (tmp_path / "out").mkdir()
    merged.write_merged(packed.plan, packed.trained, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert (logits(again) - live).abs().max() < 1e-4


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
@pytest.mark.parametrize("name", METHODS)
def test_only_proven_adapters_stand_on_a_quantized_base(
    name: str, quantize: str, make_recipe: Callable[..., Path]
) -> None:
    row, train = METHODS[name], {"learning_rate": "auto"} if name == "staged" else {}
    method = {"name": name, **OPTIONS.get(name, {})}
    recipe = make_recipe("llama", model={"quantize": quantize}, method=method, train=train)
    if quantize in row.quantized:
        assert set(make(recipe).formats) - {"virtual_tokens"} == {"adapter"}
        return
    said = "quantized weights cannot be trained"
    if row.adapter:
        proven = ", ".join(sorted(row.quantized)) or "none"
        said = rf"not supported on such a base \(supported: {proven}\)"
    with pytest.raises(RecipeError, match=said) as caught:
        make(recipe)
    assert caught.value.exit_code == 2
    assert f"model.quantize: {quantize} and method.name: {name}" in str(caught.value)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("quantize", "name"), [("nf4", "lora"), ("nf4", "dora"), ("int8", "lora")])
def test_a_quantized_base_trains_and_exports_a_verified_adapter(
    quantize: str,
    name: str,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """On a CPU too, after the scores before training: every tensor moves, in every layer."""
    recipe = make_recipe(
        "llama", model={"quantize": quantize}, method={"name": name}, train={"max_steps": 2}
    )
    record = run_recipe(recipe)
    assert record["unmoved_tensors"] == []
    (artefact,) = record["artefacts"]
    assert (artefact["kind"], artefact["verified"]) == ("adapter", True)
    assert record["scores"]["after"]["loss"] < record["scores"]["before"]["loss"]
    assert not (tmp_path / "run/merged").exists()


def test_a_gradient_passes_through_a_4_bit_base(make_recipe: Callable[..., Path]) -> None:
    """bitsandbytes repacks 4-bit weights at the first evaluation into a kernel without gradient."""
    made = make(make_recipe("llama", model={"quantize": "nf4"}))
    network = built(made).model
    randomise(network)
    before = logits(network)
    network.train()
    network(input_ids=PROBES, labels=PROBES).loss.backward()
    idle = [
        name
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert idle == []
    assert torch.equal(logits(network), before)


def test_eva_starts_from_the_data(make_recipe: Callable[..., Path]) -> None:
    """The rows of each A are directions of the layer's inputs: orthonormal, and others than
    chance would give; B is zero, so nothing is changed at the start."""
    chance = built(make(make_recipe("llama", method={"init": "default", "r": 4}))).model
    network = built(make(make_recipe("llama", method={"init": "eva", "r": 4}))).model
    for name, parameter in network.named_parameters():
        if "lora_A" in name:
            product = parameter @ parameter.T
            assert torch.allclose(product, torch.eye(len(parameter)), atol=1e-4), name
            assert not torch.equal(parameter, chance.get_parameter(name))
        if "lora_B" in name:
            assert not parameter.any()


@pytest.mark.parametrize("name", ["full", "last_layer", "staged"])
def test_a_verb_takes_only_its_methods(name: str, make_recipe: Callable[..., Path]) -> None:
    train = {"learning_rate": "auto"} if name == "staged" else {}
    recipe = make_recipe("llama", method={"name": name}, train=train)
    with pytest.raises(RecipeError) as caught:
        make(recipe, verb="lora")
    assert caught.value.exit_code == 2
    assert "tuner sft" in str(caught.value)
    assert make(recipe, verb="sft").method.name == name
    assert make(recipe, verb=None).verb == "sft"


@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_the_lora_verb_takes_its_family(name: str, make_recipe: Callable[..., Path]) -> None:
    assert make(make_recipe("llama", method={"name": name}), verb="lora").method.name == name


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"method": {"init": "loftq"}}, "loftq needs a GPU"),
        ({"method": {"init": "pissa"}, "model": {"quantize": "nf4"}}, "rewrites the base weights"),
        ({"method": {"init": "eva", "name": "dora"}}, "method.init: expected default"),
        ({"method": {"init": "pissa", "name": "dora"}}, "method.init: expected default"),
        ({"method": {"init": "olora", "name": "dora"}}, "method.init: expected default"),
        ({"method": {"name": "full"}, "export": {"formats": ["adapter"]}}, "use merged"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    sections: dict[str, Any], said: str, make_recipe: Callable[..., Path]
) -> None:
    """H09"""
    with pytest.raises(RecipeError, match=said) as caught:
        make(make_recipe("llama", **sections))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["lora", "full", "last_layer"])
def test_the_estimate_knows_what_is_held_in_which_dtype(
    name: str, make_recipe: Callable[..., Path]
) -> None:
    made = make(make_recipe("llama", model={"dtype": "bfloat16"}, method={"name": name}))
    held = built(made).model.parameters()
    assert made.facts["memory"]["weights"] == sum(p.numel() * p.element_size() for p in held)
