"""What a run leaves behind is what it trained: E01, E05, E15, E17, C13, I14, M16.

The independent measure: plain transformers and peft load the artefact on the untouched base, and
its logits are compared with those that the live model gave before anything was exported.
"""

from __future__ import annotations

import copy
import getpass
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.export.test_tampered import refused
from tests.tiny import KINDS
from tuner.errors import TrainingError, TunerError
from tuner.export import run_end
from tuner.model import tokenizer as model_tokenizer
from tuner.run import build

ADAPTER_FILES = {
    "MANIFEST.json",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
}
MERGED_FILES = {
    "MANIFEST.json",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
PROBES = torch.randint(0, 500, (3, 24), generator=torch.Generator().manual_seed(3))
QUICK = {"train": {"max_steps": 3}, "eval": {"samples": 0, "enabled": False}}
CASES = [
    *((kind, {"name": "lora"}) for kind in KINDS),
    *(
        ("llama-tied", {"name": name})
        for name in ("rslora", "dora", "full", "last_layer", "staged")
    ),
    *(("llama", {"init": init}) for init in ("pissa", "olora", "eva")),
    ("gpt2", {"init": "pissa"}),
]


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    """Logits of the probes, one row at a time."""
    network.eval()
    rows = [network(input_ids=row[None], use_cache=False).logits[0] for row in PROBES]
    return torch.stack(rows).float()


def plain(folder: Path) -> Any:
    """A model as anyone would load it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def shapes(folder: Path) -> dict[str, list[int]]:
    """Name and shape of every tensor of a saved model."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


@dataclass
class Seen:
    """What the export was given, kept before it touched anything."""

    plan: Any = None
    live: Any = None
    before: list[Callable[[Any, Any], None]] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Keep the live model's logits, and whatever the hooks in `before` do first."""
    kept = Seen()
    original = run_end.export_run

    def write(plan: Any, trained: Any, fingerprint: str) -> Any:
        for hook in kept.before:
            hook(plan, trained)
        kept.plan, kept.live = plan, logits(trained.model)
        return original(plan, trained, fingerprint)

    monkeypatch.setattr(run_end, "export_run", write)
    return kept


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("kind", "method"),
    CASES,
    ids=lambda case: case if isinstance(case, str) else next(iter(case.values())),
)
def test_artefacts_are_what_was_trained(
    kind: str,
    method: dict[str, Any],
    seen: Seen,
    bases: Callable[..., Path],
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    untouched = bases(kind)
    before = {path.name: path.read_bytes() for path in untouched.iterdir()}
    if "init" in method:
        seen.before.append(
            lambda _, trained: trained.model.save_pretrained(tmp_path / "as-peft-saves-it")
        )
    # Each stage of a staged run has its own rate.
    train = {"learning_rate": "auto"} if method.get("name") == "staged" else QUICK["train"]
    record = run_recipe(make_recipe(kind, method=method, **QUICK | {"train": train}))
    assert {path.name: path.read_bytes() for path in untouched.iterdir()} == before

    adapter, merged = tmp_path / "run/adapter", tmp_path / "run/merged"
    is_adapter = method.get("name", "lora") not in ("full", "last_layer", "staged")
    kinds = ["adapter", "merged"] if is_adapter else ["merged"]
    assert [artefact["kind"] for artefact in record["artefacts"]] == kinds
    assert all(artefact["verified"] for artefact in record["artefacts"])
    assert adapter.exists() == is_adapter
    assert distance(seen.live, logits(plain(untouched))) > 0.01  # it did learn something

    assert names(merged) == MERGED_FILES
    assert distance(seen.live, logits(plain(merged))) <= 1e-4
    assert shapes(merged) == shapes(untouched)  # E15
    if not is_adapter:
        return
    assert names(adapter) == ADAPTER_FILES
    loaded = peft.PeftModel.from_pretrained(plain(untouched), adapter)
    limit = 1e-4 if method.get("init") in ("pissa", "olora") else 1e-5
    assert distance(seen.live, logits(loaded)) <= limit
    saved = load_file(adapter / "adapter_model.safetensors")
    fresh = peft.get_peft_model(plain(untouched), loaded.peft_config["default"])
    assert saved.keys() == peft.get_peft_model_state_dict(fresh).keys()  # N09
    if "init" in method:
        # PiSSA and OLoRA took a part out of the base that a plain save does not put back.
        config = replace(loaded.peft_config["default"], r=16, lora_alpha=32.0)
        factors = load_file(tmp_path / "as-peft-saves-it/adapter_model.safetensors")
        as_peft = peft.get_peft_model(plain(untouched), config)
        peft.set_peft_model_state_dict(as_peft, factors)
        off = distance(seen.live, logits(as_peft))
        assert (off > 0.05) == (method["init"] in ("pissa", "olora"))


PLAIN_PROGRAM = """
import json, sys, torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

job = json.loads(sys.argv[1])
rows, tensors = torch.tensor(job["rows"]), {}
base = AutoModelForCausalLM.from_pretrained(job["base"])
for name, model in (
    ("adapter", PeftModel.from_pretrained(base, job["adapter"])),
    ("merged", AutoModelForCausalLM.from_pretrained(job["merged"])),
):
    with torch.no_grad():
        tensors[name] = torch.cat([model.eval()(input_ids=row[None]).logits for row in rows])
tensors["ids"] = torch.tensor(AutoTokenizer.from_pretrained(job["adapter"])("foo bar").input_ids)
assert "tuner" not in sys.modules
save_file(tensors, job["result"])
"""


@pytest.mark.slow
def test_a_real_run_loads_without_tuner(
    seen: Seen,
    bases: Callable[..., Path],
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """C13: the whole way with the fresh process; then a program that has peft and transformers
    alone."""
    record = run_recipe(make_recipe("llama", **QUICK))
    assert [a["max_logit_difference"] <= 1e-5 for a in record["artefacts"]] == [True, True]
    job = {
        "adapter": str(tmp_path / "run/adapter"),
        "merged": str(tmp_path / "run/merged"),
        "base": str(bases("llama")),
        "rows": PROBES.tolist(),
        "result": str(tmp_path / "plain.safetensors"),
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_PROGRAM, json.dumps(job)],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tensors = load_file(tmp_path / "plain.safetensors")
    assert distance(tensors["adapter"], seen.live) <= 1e-5
    assert distance(tensors["merged"], seen.live) <= 1e-4
    assert tensors["ids"].tolist() == seen.plan.tokenizer("foo bar").input_ids


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
@pytest.mark.parametrize("method", ["lora", "full", "last_layer"])
def test_tied_stays_tied(
    kind: str,
    method: str,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """E01"""
    run_recipe(make_recipe(kind, method={"name": method}, **QUICK))
    merged = tmp_path / "run/merged"
    config = json.loads((merged / "config.json").read_text())
    network = plain(merged)
    head, rows = network.get_output_embeddings().weight, network.get_input_embeddings().weight
    assert config["tie_word_embeddings"] == torch.equal(head, rows) == (kind == "llama-tied")


@pytest.mark.usefixtures("in_process")
def test_a_merge_that_overflows_is_refused(
    seen: Seen,
    bases: Callable[..., Path],
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """E05"""

    def overflow(_: Any, trained: Any) -> None:
        for name, parameter in trained.model.named_parameters():
            if "lora_" in name and "layers.0.mlp.up_proj" in name:
                parameter.data.fill_(1e25)

    seen.before.append(overflow)
    before = (bases("llama") / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="not finite") as caught:
        run_recipe(make_recipe("llama", **QUICK))
    assert caught.value.exit_code == 5
    refused(tmp_path / "run", "training")
    assert (bases("llama") / "model.safetensors").read_bytes() == before


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_under_the_adapter_the_base_is_untouched(
    method: str, seen: Seen, make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    """E17: unloading the trained adapter gives the base's logits, bit for bit."""
    found: dict[str, torch.Tensor] = {}

    def unload(plan: Any, trained: Any) -> None:
        found["before"] = logits(build.load(plan))
        found["after"] = logits(copy.deepcopy(trained.model).unload())

    seen.before.append(unload)
    run_recipe(make_recipe("llama", method={"name": method}, **QUICK))
    assert torch.equal(found["before"], found["after"])


@pytest.mark.usefixtures("in_process")
def test_no_path_and_no_user_name(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """I14"""
    run_recipe(make_recipe("llama", **QUICK))
    private = [str(Path.home()), str(tmp_path.parent), "/tmp/", "/home/", "/root", "/Users/"]
    checked = 0
    for file in [*(tmp_path / "run/adapter").iterdir(), *(tmp_path / "run/merged").iterdir()]:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                text = json.dumps(tensors.metadata())
        else:
            text = file.read_text("utf-8")
        assert [word for word in private if word in text] == [], file
        assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text), file
        checked += 1
    assert checked == len(ADAPTER_FILES) + len(MERGED_FILES)
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "llama-chatml-0"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("tokenizer", ["chatml", "plain", "eospad", "bos"])
def test_the_template_that_was_trained_with_is_saved(
    tokenizer: str,
    seen: Seen,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """M16: three of these bases have no template: ours goes along, and builds the same prompts."""
    run_recipe(make_recipe("llama", tokenizer=tokenizer, **QUICK))
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    row = seen.plan.prepared.eval[0]
    for folder in (tmp_path / "run/adapter", tmp_path / "run/merged"):
        text = (folder / "chat_template.jinja").read_text("utf-8")
        assert hashlib.sha256(text.encode()).hexdigest() == report["chat_template_sha256"]
        fresh = AutoTokenizer.from_pretrained(folder)
        prompt = fresh.apply_chat_template(
            [{"role": "user", "content": row.prompt_text}],
            add_generation_prompt=True,
            return_dict=False,
        )
        assert prompt == row.prompt_ids
        assert fresh.eos_token_id == seen.plan.tokenizer.eos_token_id
    stops = json.loads((tmp_path / "run/merged/generation_config.json").read_text())["eos_token_id"]
    assert (stops[0] if isinstance(stops, list) else stops) == seen.plan.tokenizer.eos_token_id
    again = model_tokenizer.stop_ids(tmp_path / "run/merged")
    assert again[0] == seen.plan.tokenizer.eos_token_id


@pytest.mark.usefixtures("in_process")
def test_a_second_call_finds_what_the_first_one_sealed(
    monkeypatch: pytest.MonkeyPatch,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A run stopped after the export is resumed: sealed artefacts stay as they are."""
    recipe = make_recipe("llama", **QUICK)
    original = run_end.export_run

    def die(*arguments: Any) -> Any:
        original(*arguments)
        raise TunerError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(run_end, "export_run", die)
        with pytest.raises(TunerError, match="stopped"):
            run_recipe(recipe)
    file = tmp_path / "run/adapter/adapter_model.safetensors"
    first = (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
    record = run_recipe(recipe, resume=True)
    assert (file.stat().st_mtime_ns, record["artefacts"][0]["sha256"]) == first
    assert record["status"] == "done"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["lora", "full"])
def test_bfloat16_is_compared_without_autocast(
    name: str, seen: Seen, make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    """Training computes under autocast; an artefact is compared with the model as it stands."""
    sections = QUICK | {"model": {"dtype": "bfloat16"}, "method": {"name": name}}
    *adapter, merged = run_recipe(make_recipe("llama", **sections))["artefacts"]
    assert [artefact["max_logit_difference"] for artefact in adapter] == [0.0] * len(adapter)
    assert merged["proof"] == ("rounded" if name == "lora" else "equal")
    # Weights of their own are kept in float32.
    limit = 0.02 * float(seen.live.abs().max()) if name == "lora" else 0.0
    assert merged["max_logit_difference"] <= limit
