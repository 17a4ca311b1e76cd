"""Adapters written as another kind, combined, or refused: E06 to E08, E11, E17."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.export.exporting import HAS_LLAMA, ROWS, command, exported, logits, tuned
from tuner.cli.export import numbers
from tuner.console.console import Console
from tuner.errors import IntegrityError, ModelError, RecipeError
from tuner.export import convert
from tuner.export import origin as export_origin
from tuner.export.combine import check as check_combination
from tuner.export.job import Combination, Settings
from tuner.recipe.formats import known

# Where llama.cpp is installed, it runs every GGUF file.
pytestmark = pytest.mark.llama


@pytest.mark.usefixtures("in_process")
def test_portable_rslora_reads_as_plain_lora(
    trained: Callable[..., Path],
    bases: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """E06"""
    method = {"name": "rslora", "r": 4, "rank_pattern": {"q_proj": 8}}
    run = trained("llama", method=method)
    exported(run, "adapter", output=tmp_path / "a")
    assert "SGLang" in capsys.readouterr().err
    exported(run, "adapter", output=tmp_path / "b", portable=True)
    assert "SGLang" not in capsys.readouterr().err
    config = json.loads((tmp_path / "b/adapter/adapter_config.json").read_text())
    assert config["use_rslora"] is False
    wanted = logits(tuned(run, bases("llama")), ROWS)
    base = AutoModelForCausalLM.from_pretrained(bases("llama"))
    found = logits(PeftModel.from_pretrained(base, tmp_path / "b/adapter"), ROWS)
    assert float((found - wanted).abs().max()) < 1e-5


@pytest.mark.usefixtures("in_process")
def test_dora_is_never_written_as_plain_lora(
    trained: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """E07"""
    run = trained("llama", method={"name": "dora", "r": 4})
    for arguments in ({"portable": True, "formats": ("adapter",)}, {"formats": ("gguf-adapter",)}):
        if arguments["formats"] == ("gguf-adapter",) and not HAS_LLAMA:
            continue
        asked = dict(arguments)
        with pytest.raises(ModelError, match=r"plain LoRA") as caught:
            exported(run, *asked.pop("formats"), output=run / "out", **asked)
        assert caught.value.exit_code == 4
        assert "merge instead" in caught.value.fix
    report = exported(run, "merged")["merged"]
    assert report["max_logit_difference"] < 1e-5
    assert command("export", run, "--check", "vllm")[0] == 4


@pytest.mark.parametrize("method", ["prefix", "prompt", "ptuning"])
def test_virtual_tokens_cannot_be_merged(method: str, tmp_path: Path) -> None:
    """E08: refused by the adapter's files alone, long before anything is loaded."""
    kinds = {"prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING", "ptuning": "P_TUNING"}
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": kinds[method], "base_model_name_or_path": "nowhere"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    started = time.monotonic()
    code, (event,) = command("export", folder, "--format", "merged")
    assert time.monotonic() - started < 1
    assert code == 4
    assert "virtual_tokens" in event["error"]["fix"]


@pytest.mark.usefixtures("in_process")
def test_adapters_whose_names_begin_alike(
    trained: Callable[..., Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    """E11, E17: two combined, with a negative weight; the sum is that of the updates, and the file
    holds the combination alone."""
    first = trained("llama", "a")
    second = trained("llama", "ab", run={"seed": 7}, method={"name": "lora", "r": 4})
    origins = [export_origin.find(str(run)) for run in (first, second)]
    asked = Combination(origins, (0.75, -0.5), "linear", 0.5)
    out = tmp_path / "combined"
    check_combination(asked)
    settings = Settings(output=out, combination=asked)
    convert.export(origins[0], known(["adapter", "merged"]), settings, Console(quiet=True))
    combined = load_file(out / "adapter/adapter_model.safetensors")
    parts = [load_file(run / "adapter/adapter_model.safetensors") for run in (first, second)]
    assert combined.keys() == parts[0].keys()
    plain = load_file(bases("llama") / "model.safetensors")
    merged = load_file(out / "merged/model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    key = f"base_model.model.{name}"
    delta = sum(
        weight * 2 * part[f"{key}.lora_B.weight"] @ part[f"{key}.lora_A.weight"]
        for weight, part in zip((0.75, -0.5), parts, strict=True)
    )
    expected = plain[f"{name}.weight"] + delta
    assert torch.allclose(merged[f"{name}.weight"], expected, atol=1e-6)
    assert not torch.allclose(merged[f"{name}.weight"], plain[f"{name}.weight"], atol=1e-3)
    manifest = json.loads((out / "merged/MANIFEST.json").read_text())["extra"]
    assert manifest["combined"]["adapters"] == {"a": 0.75, "ab": -0.5}
    assert {"torch", "transformers", "peft"} <= manifest["versions"].keys()
    assert (out / "export.json").is_file()
    assert not (first / "export.json").exists()
    taken_away = Combination([origins[0]] * 2, (1, -1), "linear", 0.5)
    settings = Settings(output=tmp_path / "none", combination=taken_away)
    with pytest.raises(IntegrityError, match="equals its base"):
        convert.export(origins[0], known(["merged"]), settings, Console(quiet=True))
    assert not (tmp_path / "none/merged").exists()
    for kind in ("ties", "dare", "svd"):
        other = Combination(origins, (0.5, 0.5), kind, 0.5)
        settings = Settings(output=tmp_path / kind, combination=other)
        (report,) = convert.export(origins[0], known(["merged"]), settings, Console(quiet=True))
        assert report["verdict"] == "equal"


@pytest.mark.usefixtures("in_process")
def test_combinations_that_cannot_be(
    trained: Callable[..., Path], tmp_path: Path, bases: Callable[..., Path]
) -> None:
    first = export_origin.find(str(trained("llama", "a")))
    other = export_origin.find(str(trained("llama-tied", "b")))
    with pytest.raises(ModelError, match="different bases"):
        check_combination(Combination([first, other], (1, 1), "linear", 0.5))
    for asked, word in (
        (Combination([first, first], (1,), "linear", 0.5), "weights"),
        (Combination([first, first], (1, 1), "sum", 0.5), "combination"),
        (Combination([first, first], (1, 1), "ties", 0.0), "density"),
    ):
        with pytest.raises(RecipeError, match=word):
            check_combination(asked)
    with pytest.raises(RecipeError, match="weights"):
        numbers("0.5;0.5", 2)
    assert (
        command("export", "--adapters", f"{first.folder},{first.folder}", "--format", "merged")[0]
        == 2
    )  # nothing says where to
