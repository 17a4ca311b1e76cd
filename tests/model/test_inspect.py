"""`tuner inspect`: figures by hand and by peft's own update, every method, each error."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests.cli.command import tuner
from tests.methods.test_capabilities import OPTIONS
from tuner.errors import IntegrityError, ModelError, RecipeError, SafetyError, TunerError
from tuner.machine import hardware
from tuner.methods import METHODS
from tuner.model.adapters import inspect, nearest_tokens
from tuner.model.adapters import norms as updates
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.record.disk import sha256_file
from tuner.run import build

pytestmark = pytest.mark.usefixtures("in_process")

MODULE = "base_model.model.model.layers.{}.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "no-such-base",
    "r": 4,
    "lora_alpha": 8,
}


def write(folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """An adapter's folder with the given tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def pair(layer: int, first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
    name = MODULE.format(layer)
    return {f"{name}.lora_A.weight": first, f"{name}.lora_B.weight": second}


def ones(*places: tuple[int, int, float], size: tuple[int, int]) -> torch.Tensor:
    """A matrix of zeros but for some places."""
    matrix = torch.zeros(size)
    for row, column, value in places:
        matrix[row, column] = value
    return matrix


def in_json(path: Path) -> dict[str, Any]:
    """What the command prints with --json: one object."""
    done = tuner("inspect", str(path), "--json", cwd=path.parent)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    assert found.pop("event") == "adapter"
    return found


def test_norm_and_effective_rank_by_hand(tmp_path: Path) -> None:
    """alpha / r = 2; layer 2 before layer 10."""
    tensors = {
        # b a^T with |a| = 5 and |b| = 2.
        **pair(
            0,
            ones((1, 0, 3.0), (1, 5, 4.0), size=(4, 8)),
            ones((2, 1, 2.0), size=(6, 4)),
        ),
        # Four singular values of 3.
        **pair(2, torch.eye(4, 8), 3 * torch.eye(6, 4)),
        # Singular values 3 and 1.
        **pair(10, torch.eye(4, 8), torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]))),
        "base_model.model.lm_head.weight": torch.full((3, 3), 2.0),
    }
    found = in_json(write(tmp_path / "a", tensors))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    norms = [2 * 10, 2 * 6, 2 * math.sqrt(10)]
    ranks = [1.0, 4.0, math.exp(entropy)]
    layers = [row["layer"] for row in found["layers"]]
    assert layers == ["model.layers.0", "model.layers.2", "model.layers.10", "elsewhere"]
    assert [row["update_norm"] for row in found["layers"][:3]] == pytest.approx(norms, rel=1e-6)
    assert [row["effective_rank"] for row in found["layers"][:3]] == pytest.approx(ranks, rel=1e-6)
    assert [row["other_norm"] for row in found["layers"]] == [None, None, None, 6.0]
    assert [row["modules"] for row in found["layers"]] == [1, 1, 1, 1]
    assert found["update_norm"] == pytest.approx(math.hypot(*norms), rel=1e-6)
    by_name = {each["module"]: each for each in found["pairs"]}
    assert by_name["model.layers.2.self_attn.q_proj"]["effective_rank"] == pytest.approx(4.0)
    assert (found["rank"], found["alpha"], found["scaling"]) == (4, 8, 2.0)
    assert found["modules"] == {
        "count": 4,
        "by_ending": {"q_proj": 3, "lm_head": 1},
        "in_layers": 3,
        "of_layers": None,
    }
    assert found["parameters"] == {"stored": 3 * 32 + 24 + 24 + 16 + 9}
    assert found["warnings"] == []


@pytest.mark.parametrize("shape", [(8, 40, 30), (8, 5, 30), (8, 30, 5)])
def test_the_small_factors_have_the_singular_values_of_the_product(
    shape: tuple[int, int, int],
) -> None:
    """Also where the rank is larger than the matrix."""
    rank, inputs, outputs = shape
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(rank, inputs, generator=generator, dtype=torch.float64)
    second = torch.randn(outputs, rank, generator=generator, dtype=torch.float64)
    whole = torch.linalg.svdvals(second @ first)
    small = updates.product_singular_values(first, second)
    count = min(len(whole), len(small))
    assert torch.allclose(small[:count], whole[:count], atol=1e-10)
    assert float(small[count:].sum() + whole[count:].sum()) < 1e-10


def test_the_effective_rank_of_nothing_is_zero() -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert updates.effective_rank(values).tolist() == pytest.approx([0.0, 2.0])


T: dict[str, Any] = {"task_type": "CAUSAL_LM"}
UPDATES: dict[str, tuple[str, Any]] = {
    "lora": ("llama", peft.LoraConfig(target_modules=["q_proj", "down_proj"], r=4, **T)),
    "rslora": ("llama", peft.LoraConfig(target_modules=["q_proj"], r=4, use_rslora=True, **T)),
    "patterns": (
        "llama",
        peft.LoraConfig(
            target_modules=["q_proj", "v_proj"],
            r=4,
            rank_pattern={"layers.1.self_attn.q_proj": 2},
            alpha_pattern={"v_proj": 5},
            **T,
        ),
    ),
    "embedding": ("llama", peft.LoraConfig(target_modules=["embed_tokens", "q_proj"], r=4, **T)),
    "gpt2": ("gpt2", peft.LoraConfig(target_modules=["c_attn"], r=4, fan_in_fan_out=True, **T)),
    "experts": (
        "mixtral",
        peft.LoraConfig(
            target_modules=["q_proj"],
            target_parameters=["experts.gate_up_proj", "experts.down_proj"],
            r=3,
            **T,
        ),
    ),
    "adalora": (
        "llama",
        peft.AdaLoraConfig(target_modules=["q_proj"], init_r=6, target_r=3, total_step=10, **T),
    ),
}


@pytest.mark.parametrize("name", UPDATES)
@torch.no_grad()
def test_the_norms_are_those_of_pefts_own_updates(
    name: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    kind, config = UPDATES[name]
    torch.manual_seed(3)
    network = get_peft_model(AutoModelForCausalLM.from_pretrained(bases(kind)), config)
    for tensor_name, parameter in network.named_parameters():
        if "lora_" in tensor_name:
            parameter.normal_()
    if name == "adalora":
        keep = {"model.layers.0.self_attn.q_proj.lora_E": [True, False, True, True, False, False]}
        network.active_peft_config.rank_pattern = keep
    network.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    fresh = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(bases(kind)), str(tmp_path / "a")
    )
    wanted: dict[str, list[float]] = {}
    ranks: dict[str, list[float]] = {}
    for module_name, module in fresh.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "lora_A"):
            delta = module.get_delta_weight("default").double()
            key = module_name.removeprefix("base_model.model.").replace(".base_layer", "")
            wanted.setdefault(key, []).append(float(delta.norm()))
            values = torch.linalg.svdvals(delta.reshape(-1, *delta.shape[-2:]))
            ranks.setdefault(key, []).append(float(updates.effective_rank(values).mean()))
    found = inspect.inspect(tmp_path / "a")
    seen: dict[str, list[float]] = {}
    for each in found["pairs"]:
        seen.setdefault(each["module"], []).append(each["norm"])
        near = min(abs(each["effective_rank"] - rank) for rank in ranks[each["module"]])
        assert near < 1e-4
    assert seen.keys() == wanted.keys()
    for key, norms in wanted.items():
        assert sorted(seen[key]) == pytest.approx(sorted(norms), rel=1e-5), key
    assert found["modules"]["in_layers"] == found["modules"]["of_layers"] == 2


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].adapter])
def test_every_method_of_ours_can_be_inspected(
    name: str, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Count of parameters and modules against the live model."""
    method = {"name": name, **OPTIONS.get(name, {})}
    loaded = recipe_load.load(make_recipe("llama", method=method), verb="sft")
    made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    network = build.start(made, build.load(made)).model
    network.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    found = inspect.inspect(tmp_path / "a")
    state = get_peft_model_state_dict(network)
    assert found["parameters"]["stored"] == sum(tensor.numel() for tensor in state.values())
    assert sum(row["parameters"] for row in found["layers"]) == found["parameters"]["stored"]
    targets = {"oft": 14, "adaption_prompt": found["modules"]["count"], "trainable_tokens": 1}
    if not made.method.virtual_tokens:
        wanted = len(made.setting.targets) or targets[name]
        assert found["modules"]["count"] == wanted > 0
    untouched = AutoModelForCausalLM.from_pretrained(made.base.folder)
    endings = {key.rpartition(".")[2] for key, _ in untouched.named_modules()}
    assert found["modules"]["by_ending"].keys() <= endings
    assert found["modules"]["of_layers"] == 2
    assert (found["num_virtual_tokens"] == 5) == made.method.virtual_tokens
    zero = [key for key, tensor in state.items() if not tensor.any()]
    assert found["zero_tensors"] == sorted(zero)
    done = tuner("inspect", str(tmp_path / "a"), "--verbose", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"({found['peft_type']})" in done.stdout.splitlines()[0]


def test_a_run_folder_tells_what_the_run_knows(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Method by its recipe's name, the base's fingerprint, the trainable share, unmoved tensors."""
    rows = run_recipe(
        make_recipe("llama", method={"name": "dora", "r": 4}, eval={"enabled": False})
    )
    folder = tmp_path / "run"
    unmoved = MODULE.format(1) + ".lora_B.default.weight"
    record = json.loads(json.dumps({**rows, "unmoved_tensors": [unmoved]}))
    # A name that the adapter's own configuration cannot give away.
    record["plan"]["values"]["method.name"]["value"] = "ours"
    (folder / "run.json").write_text(json.dumps(record))
    before = sorted(tmp_path.rglob("*"))
    found = in_json(folder)
    assert sorted(tmp_path.rglob("*")) == before
    weights = folder / "adapter" / "adapter_model.safetensors"
    assert found["method"] == "ours"
    assert found["base"]["fingerprint"] == rows["base_fingerprint"]
    planned = rows["plan"]["parameters"]
    assert found["parameters"] == {**planned, "stored": planned["trainable"]}
    assert found["unmoved_tensors"] == [MODULE.format(1) + ".lora_B.weight"]
    assert found["file"]["sha256"] == sha256_file(weights) == rows["artefacts"][0]["sha256"]
    assert found["file"]["bytes"] == weights.stat().st_size
    assert found["warnings"] == []
    assert in_json(folder / "adapter") == found
    moved = shutil.copytree(folder / "adapter", tmp_path / "elsewhere" / "mine")
    alone = in_json(moved)
    assert alone["base"]["fingerprint"] == rows["base_fingerprint"]
    assert alone["parameters"] == {"stored": planned["trainable"]}
    assert (alone["unmoved_tensors"], alone["method"]) == ([], "dora")
    said = tuner("inspect", str(folder), cwd=tmp_path).stdout
    assert f"sha256 {found['file']['sha256']}" in " ".join(said.split())
    assert f"trainable_share {100 * planned['trainable_share']:.3g} %" in said
    assert "14 in 2 of 2 layers" in said
    assert unmoved.replace(".default", "") in said
    tensors = load_file(weights)
    tensors[MODULE.format(0) + ".lora_A.weight"][0, 0] += 1
    save_file(tensors, weights)
    changed = in_json(folder)["warnings"]
    assert len(changed) == 2
    assert "changed after it was sealed" in changed[0]
    assert "another sha256" in changed[1]


def test_a_plain_peft_folder_with_a_zeroed_b(bases: Callable[[str], Path], tmp_path: Path) -> None:
    config = peft.LoraConfig(target_modules=["q_proj"], r=4, **T)
    network = get_peft_model(AutoModelForCausalLM.from_pretrained(bases("llama")), config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name and "layers.1." in name:
                parameter.fill_(0.5)
    network.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    found = in_json(tmp_path / "a")
    assert found["zero_tensors"] == [MODULE.format(0) + ".lora_B.weight"]
    assert [row["effective_rank"] for row in found["layers"]] == [0.0, pytest.approx(1.0)]
    assert found["base"]["fingerprint"] == "unknown"
    assert (found["method"], found["unmoved_tensors"]) == ("lora", [])
    said = tuner("inspect", str(tmp_path / "a"), cwd=tmp_path).stdout
    assert f"all zero    {MODULE.format(0)}.lora_B.weight" in said
    assert "low-rank update " not in said
    more = tuner("inspect", str(tmp_path / "a"), "--verbose", cwd=tmp_path).stdout
    assert "model.layers.0.self_attn.q_proj " in more


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_layers_of_an_encoder_decoder_are_counted_on_both_sides(
    kind: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    ends = {"t5": ["q"], "bart": ["fc1"]}[kind]
    config = peft.LoraConfig(target_modules=ends, task_type="SEQ_2_SEQ_LM")
    network = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(bases(kind)), config)
    network.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    found = in_json(tmp_path / "a")
    assert (found["modules"]["in_layers"], found["modules"]["of_layers"]) == (4, 4)
    assert len(found["layers"]) == 4


def test_values_that_are_not_finite_are_warned_of(tmp_path: Path) -> None:
    first = torch.ones(4, 8)
    first[0, 0] = float("nan")
    broken, half = MODULE.format(0) + ".lora_A.weight", torch.full((4, 8), 65000.0)
    tensors = {**pair(0, first, torch.eye(6, 4)), **pair(1, half.half(), torch.eye(6, 4))}
    folder = write(tmp_path / "a", tensors)
    found = in_json(folder)
    assert found["non_finite_tensors"] == [broken]
    assert [row["update_norm"] for row in found["layers"]] == [
        None,
        pytest.approx(2 * float(torch.tensor(65000.0).half()) * math.sqrt(32), rel=1e-6),
    ]
    assert found["file"]["dtypes"] == ["float16", "float32"]
    done = tuner("inspect", str(folder), cwd=tmp_path)
    assert done.returncode == 0
    assert broken in done.stderr


def test_a_missing_factor_is_warned_of(tmp_path: Path) -> None:
    tensors = pair(0, torch.eye(4, 8), torch.eye(6, 4))
    del tensors[MODULE.format(0) + ".lora_B.weight"]
    (warning,) = in_json(write(tmp_path / "a", tensors))["warnings"]
    assert "factor" in warning
    assert MODULE.format(0) + ".lora_A.weight" in warning


def test_a_type_that_only_peft_knows(bases: Callable[[str], Path], tmp_path: Path) -> None:
    config = peft.HRAConfig(target_modules=["q_proj"], r=2, **T)
    network = get_peft_model(AutoModelForCausalLM.from_pretrained(bases("llama")), config)
    network.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    found = in_json(tmp_path / "a")
    assert found["modules"]["by_ending"] == {"q_proj": 2}
    assert (found["method"], found["rank"], found["pairs"]) == ("hra", 2, [])


def prompt(folder: Path, rows: torch.Tensor, base: str, **config: Any) -> Path:
    own = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": len(rows), "num_layers": 2}
    named = {"base_model_name_or_path": base, "r": None, "lora_alpha": None}
    return write(folder, {"prompt_embeddings": rows}, **{**own, **named, **config})


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "P_TUNING"])
def test_virtual_tokens_are_near_the_vocabulary_tokens_they_are_made_of(
    kind: str,
    peft_type: str,
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Across the parts that the matrix is read in, whose last is shorter."""
    monkeypatch.setattr(nearest_tokens, "_ROWS", 100)
    network = AutoModelForCausalLM.from_pretrained(bases(kind))
    matrix = network.get_input_embeddings().weight.detach()
    ids = [7, 150, 511]
    rows = torch.stack([3 * matrix[7], matrix[150] + 0.2 * matrix[20], matrix[511], 0 * matrix[0]])
    folder = prompt(tmp_path / "a", rows, str(bases(kind)), peft_type=peft_type)
    tokens = in_json(folder)["virtual_tokens"]
    assert [each["nearest"][0]["id"] for each in tokens[:3]] == ids
    assert tokens[0]["nearest"][0]["similarity"] == pytest.approx(1.0, abs=1e-5)
    cosines = torch.nn.functional.cosine_similarity(rows[1][None], matrix)
    assert [near["similarity"] for near in tokens[1]["nearest"]] == pytest.approx(
        cosines.topk(3).values.tolist(), abs=1e-5
    )
    assert [near["id"] for near in tokens[1]["nearest"]] == cosines.topk(3).indices.tolist()
    assert tokens[3]["nearest"] == []
    assert tokens[0]["norm"] == pytest.approx(float(3 * matrix[7].norm()), rel=1e-5)
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(bases(kind)).decode([150])
    assert tokens[1]["nearest"][0]["text"] == text
    said = tuner("inspect", str(folder), cwd=tmp_path).stdout
    assert f"{text!r} {float(cosines.max()):.2f}" in said


def test_without_the_base_there_are_no_nearest_tokens(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = prompt(tmp_path / "a", torch.ones(25, 64), "no-such-base")
    found = in_json(folder)
    assert "no-such-base is not on this machine" in found["not_compared"]
    assert [each["nearest"] for each in found["virtual_tokens"]] == [[]] * 25
    said = tuner("inspect", str(folder), cwd=tmp_path).stdout
    assert "no-such-base is not on this machine" in said
    assert "5 more with --verbose" in said
    other = prompt(tmp_path / "b", torch.ones(2, 32), str(bases("llama")))
    assert in_json(other)["not_compared"] == (
        "the base has embeddings of size 64, the adapter of 32"
    )


def test_a_prefix_by_layer(tmp_path: Path) -> None:
    """3 tokens, 2 layers, keys and values of 2: layer 0 holds ones, layer 1 holds fours."""
    values = torch.cat([torch.ones(3, 4), torch.full((3, 4), 4.0)], dim=1)
    folder = prompt(tmp_path / "a", values, "no-such-base", peft_type="PREFIX_TUNING")
    found = in_json(folder)
    assert [row["layer"] for row in found["layers"]] == ["layers.0", "layers.1"]
    assert [row["other_norm"] for row in found["layers"]] == pytest.approx(
        [math.sqrt(12), 4 * math.sqrt(12)]
    )
    assert "virtual_tokens" not in found


def _truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def _unfit(folder: Path) -> None:
    write(folder, pair(0, torch.eye(4, 8), torch.eye(6, 3)))


def _config(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "adapter_config.json").write_text(text) and None


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


ERRORS: dict[str, tuple[Callable[[Path], None], type[TunerError], str]] = {
    "missing": (shutil.rmtree, RecipeError, "does not exist"),
    "empty": (
        lambda folder: [file.unlink() for file in folder.iterdir()] and None,
        ModelError,
        "adapter_config.json does not exist",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        ModelError,
        "adapter_model.safetensors does not exist",
    ),
    "pickle": (_pickle, SafetyError, "adapter_model.bin"),
    "truncated": (_truncate, IntegrityError, "weights are damaged"),
    "no tensor": (lambda folder: save_file({}, folder / "adapter_model.safetensors"),
                  IntegrityError, "no tensor"),
    "unfit": (_unfit, IntegrityError, "do not fit together"),
    "not JSON": (_config("{"), IntegrityError, "configuration cannot be read"),
    "not an object": (_config("[]"), IntegrityError, "configuration cannot be read"),
    "no number": (
        _config(json.dumps({**CONFIG, "lora_alpha": "8"})), IntegrityError, "lora_alpha is '8'"
    ),
    "unknown type": (_config('{"peft_type": "NEWEST"}'), ModelError, "'NEWEST'"),
    "no prompt": (_config('{"peft_type": "P_TUNING"}'), IntegrityError, "no prompt_embeddings"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_has_its_code_and_says_what_to_do(name: str, tmp_path: Path) -> None:
    damage, kind, said = ERRORS[name]
    folder = write(tmp_path / "a", pair(0, torch.eye(4, 8), torch.eye(6, 4)))
    assert tuner("inspect", str(folder), cwd=tmp_path).returncode == 0
    damage(folder)
    done = tuner("inspect", str(folder), cwd=tmp_path)
    assert done.returncode == kind.exit_code
    assert said in done.stderr
    assert "fix: " in done.stderr
    assert done.stdout == ""


def test_a_file_is_no_folder_and_a_run_without_adapter_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tuner("inspect", str(tmp_path / "file"), cwd=tmp_path)
    assert (done.returncode, "is not a folder" in done.stderr) == (2, True)
    record = {"format": 1, "tuner": "0", "status": "done", "artefacts": [{"kind": "merged"}]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    done = tuner("inspect", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 4
    assert "the run is done, its artefacts are: merged" in done.stderr
    (tmp_path / "run.json").write_text("{}")
    assert tuner("inspect", str(tmp_path), cwd=tmp_path).returncode == 6
