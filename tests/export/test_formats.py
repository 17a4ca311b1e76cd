"""`tuner export`, every format on tiny models: E02 to E05, E14 to E16.

The independent measures: plain transformers, peft and llama.cpp load what was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.export.exporting import (
    HAS_LLAMA,
    QUICK,
    ROWS,
    command,
    exported,
    logits,
    names,
    needs_llama,
    tuned,
)
from tuner.errors import ModelError, TrainingError
from tuner.export import qat_grid
from tuner.export.gguf.model import field
from tuner.export.proof import measure
from tuner.model.weights import without_cpu_packing
from tuner.record import proof_limits

KINDS = ("llama", "llama-tied", "gpt2", "qwen2")
PLAIN = ("merged", "int8", "nf4", "gguf")
MORE = ("int8-torchao", "int4")


# Where llama.cpp is installed, it runs every GGUF file.
pytestmark = pytest.mark.llama


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_goes_round(
    kind: str, trained: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """E14, E15, E16: each is near the tuned model, far from the base, and verifies afterwards."""
    run = trained(kind)
    formats = [*PLAIN, *(MORE if kind != "gpt2" else ())]
    reports = exported(run, *formats)
    wanted = logits(tuned(run, bases(kind)), ROWS)
    for name in formats:
        report, folder = reports[name], run / name
        assert report["kept"] > 0.9, name
        assert report["kl"] < report["kl_base"] / 2
        assert not [file for file in names(run) if file.startswith(".")]
        if name != "gguf":
            plain = without_cpu_packing(AutoModelForCausalLM.from_pretrained(folder))
            found = logits(plain, ROWS)
            assert measure.divergence(wanted, found) < 10 * report["kl"] + 1e-6
        code, events = command("verify", folder)
        # What loses more than a twentieth of the update is warned of.
        warned = [event for event in events if event["event"] == "warning"]
        assert bool(warned) == (proof_limits.warning(report) is not None)
        (event,) = (event for event in events if event["event"] != "warning")
        assert (code, event["kind"]) == (0, name)
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        assert set(manifest["files"]) == names(folder) - {"MANIFEST.json"}
    assert reports["merged"]["max_logit_difference"] < 1e-4
    assert reports["int8"]["bytes"] < (run / "merged/model.safetensors").stat().st_size
    listed = json.loads((run / "export.json").read_text())["artefacts"]
    assert [item["kind"] for item in listed] == formats
    assert known_to_file(run / "gguf", AutoTokenizer.from_pretrained(run / "adapter"))


def known_to_file(folder: Path, tokenizer: Any) -> bool:
    """E14: ids and template in a GGUF file are the tokenizer's."""
    reader = GGUFReader(next(folder.glob("*.gguf")))
    return (
        field(reader, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
        and field(reader, "tokenizer.chat_template") == tokenizer.chat_template
        and field(reader, "general.architecture") in ("llama", "gpt2", "qwen2")
        and field(reader, "general.name") == folder.parent.name
    )


@pytest.mark.usefixtures("in_process")
def test_torchao_has_nothing_to_do_in_gpt2(trained: Callable[..., Path]) -> None:
    run = trained("gpt2")
    for name in MORE:
        with pytest.raises(ModelError) as caught:
            exported(run, name)
        assert caught.value.exit_code == 4
        assert not (run / name).exists()


@needs_llama
@pytest.mark.usefixtures("in_process")
def test_llama_cpp_computes_the_same(trained: Callable[..., Path]) -> None:
    """llama.cpp quantizes to the smaller types; it computes and answers as transformers does."""
    run = trained("llama")
    types = ("gguf", "gguf-q8_0", "gguf-q4_0", "gguf-q4_k_m", "gguf-adapter")
    reports = exported(run, *types)
    for name in types[:-1]:
        found = reports[name]["llama_cpp"]
        assert found["kl"] < 0.001
    # Rounded activations decide otherwise where a random model hardly has a choice.
    found = reports["gguf"]["llama_cpp"]
    assert found["same_answers"] == found["answers"] == 3
    assert reports["gguf-adapter"]["kl"] < 1e-5
    assert reports["gguf-q4_0"]["bytes"] < 0.7 * reports["gguf-q8_0"]["bytes"]
    assert reports["gguf-q8_0"]["bytes"] < 0.6 * reports["gguf"]["bytes"]


@pytest.mark.slow
def test_the_command_runs_fresh_processes(trained: Callable[..., Path]) -> None:
    run = trained("llama-tied")
    code, events = command("export", run, "--format", "merged")
    assert code == 0
    assert events[-1]["artefacts"][0]["verdict"] == "equal"
    assert command("verify", run / "merged")[0] == 0
    code, (error,) = command("export", run, "--format", "merged")
    assert (code, error["error"]["kind"]) == (2, "recipe")  # never overwritten


@pytest.mark.usefixtures("in_process")
def test_what_lies_there_is_left_alone(trained: Callable[..., Path], tmp_path: Path) -> None:
    """E14"""
    run = trained("llama")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("model-f16.gguf", "run-f16.gguf", "note.txt"):
        (out / name).write_bytes(name.encode())
    outside = {path for path in tmp_path.rglob("*") if out not in path.parents}
    exported(run, "gguf", output=out)
    assert {file for file in names(out) if "/" not in file} == {
        *("model-f16.gguf", "run-f16.gguf", "note.txt")
    }
    assert (out / "model-f16.gguf").read_bytes() == b"model-f16.gguf"
    after = {path for path in tmp_path.rglob("*") if out not in path.parents}
    assert after - outside == {run / "export.json"}


@pytest.mark.usefixtures("in_process")
def test_a_quantized_run_merges_onto_the_nearer_weights(
    trained: Callable[..., Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    """E04"""
    run = trained("llama", model={"quantize": "nf4"})
    report = exported(run, "merged")["merged"]
    kl = report["kl_by_base_weights"]
    assert report["merged_onto"] == "dequantized"
    assert kl["dequantized"] <= 1e-4 < kl["original"]
    other = exported(run, "merged", output=tmp_path / "other", onto="original")["merged"]
    assert other["kl"] == pytest.approx(kl["original"], rel=1e-3)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "other/merged")
    expected = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(bases("llama")), run / "adapter"
    )
    assert float((logits(plain, ROWS) - logits(expected, ROWS)).abs().max()) < 1e-4


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("grid", "name"), [("int8", "int8-torchao"), ("int4", "int4")])
def test_what_was_trained_for_a_grid_is_exported_on_it(
    grid: str, name: str, trained: Callable[..., Path]
) -> None:
    """The artefact is the quantized model of training, not only near to its unquantized adapter."""
    run = trained("llama-tied", train=QUICK["train"] | {"qat": grid})
    report = exported(run, name)[name]
    assert report["kl"] < 1e-9
    assert report["limit"] == qat_grid.LIMIT
    assert (name != "int4") or report["int4"] == "rounded to nearest"


@pytest.mark.usefixtures("in_process")
def test_a_merge_that_overflows_leaves_nothing(trained: Callable[..., Path]) -> None:
    """E05"""
    run = trained("llama")
    file = run / "adapter/adapter_model.safetensors"
    tensors = {k: v.fill_(1e25) if "up_proj" in k else v for k, v in load_file(file).items()}
    save_file(tensors, file)
    (run / "adapter/MANIFEST.json").unlink()
    before = names(run)
    with pytest.raises(TrainingError, match="not finite"):
        exported(run, "merged", force_base=True)
    assert names(run) == before


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("tokenizer", ["chatml", "plain", "bos"])
def test_vocabulary_and_padded_rows_stay(
    tokenizer: str, trained: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """E02, E03: the matrix has more rows than the tokenizer has tokens: none is cut, no id
    moves."""
    run = trained("llama", tokenizer=tokenizer)
    exported(run, "merged")
    base = bases("llama", tokenizer)
    before, after = (AutoTokenizer.from_pretrained(path) for path in (base, run / "merged"))
    assert before.get_vocab() == after.get_vocab()
    shapes = [
        load_file(path / "model.safetensors")["model.embed_tokens.weight"].shape
        for path in (base, run / "merged")
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0][0] >= len(before)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_real_base_goes_round(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """A quantized file of the embedded base's adapter is small, and near the tuned model."""
    section = {"base": "smollm2-135m"}
    train = {"max_steps": 2, "learning_rate": 1e-3}
    run_recipe(make_recipe(**QUICK | {"model": section, "train": train}))
    reports = exported(tmp_path / "run", "gguf-q8_0", "int8")
    assert reports["gguf-q8_0"]["bytes"] < 150e6
    assert reports["gguf-q8_0"]["kl"] < 0.01
    assert reports["gguf-q8_0"]["kept"] > 0.9
    assert reports["int8"]["bytes"] < 225e6
    if HAS_LLAMA:
        assert reports["gguf-q8_0"]["llama_cpp"]["kl"] < 0.01
