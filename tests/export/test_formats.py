"""`tuner export` and `tuner verify`: E02 to E08, E11, E14, E16, every format on tiny models.

The independent measures: plain transformers, peft and llama.cpp load what was written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuner import cli
from tuner.cli.export import numbers
from tuner.console.console import Console
from tuner.errors import IntegrityError, ModelError, RecipeError, TrainingError
from tuner.export import convert, gptq, int4, limits, qat_grid
from tuner.export import origin as export_origin
from tuner.export.combine import check as check_combination
from tuner.export.gguf import llama_cpp, modelfile
from tuner.export.gguf.model import field, splits_like
from tuner.export.job import Combination, Settings
from tuner.export.proof import measure
from tuner.export.proof.measure import Held, Measures
from tuner.machine.imports import function
from tuner.model.weights import without_cpu_packing
from tuner.recipe.formats import FORMATS, known
from tuner.record import proof_limits

QUICK = {
    "train": {"epochs": 2, "learning_rate": 0.02},
    "eval": {"samples": 0, "enabled": False},
    "export": {"formats": ["adapter"]},
}
KINDS = ("llama", "llama-tied", "gpt2", "qwen2")
PLAIN = ("merged", "int8", "nf4", "gguf")
MORE = ("int8-torchao", "int4")
HAS_LLAMA = llama_cpp.installed()
if os.environ.get("TUNER_TEST_LLAMA"):
    assert HAS_LLAMA, "llama-cpp-python is wanted and not installed"
needs_llama = pytest.mark.skipif(not HAS_LLAMA, reason="llama.cpp is not installed (make llama)")
# Where llama.cpp is installed, it runs every GGUF file.
pytestmark = pytest.mark.llama


@pytest.fixture
def trained(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> Callable[..., Path]:
    """The folder of a short run on a tiny base."""

    def train(kind: str = "llama", out: str = "run", **sections: Any) -> Path:
        tokenizer = sections.pop("tokenizer", "chatml")
        run_recipe(make_recipe(kind, tokenizer=tokenizer, **QUICK | sections), out)
        return tmp_path / out

    return train


def exported(run: Path, *formats: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """Export formats of a run, as the command does it; the reports by format."""
    origin = export_origin.find(str(run))
    export_origin.refuse(origin, list(formats))
    asked = Settings(output=settings.pop("output", run), **settings)
    reports = convert.export(origin, known(formats), asked, Console(quiet=True))
    return {report["kind"]: report for report in reports}


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def command(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
    """`tuner ... --json` in this process: exit code and events."""
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as caught:
        cli.main([*map(str, arguments), "--json"])
    lines = [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]
    return int(caught.value.code or 0), lines


@torch.no_grad()
def logits(model: Any, rows: list[list[int]]) -> torch.Tensor:
    model.eval()
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0].float() for row in rows])


ROWS = torch.randint(10, 400, (3, 20), generator=torch.Generator().manual_seed(1)).tolist()


def tuned(run: Path, base: Path) -> Any:
    """The tuned model as plain peft loads it."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run / "adapter")


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


@pytest.mark.usefixtures("in_process")
def test_another_base_is_refused(
    trained: Callable[..., Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    """E12"""
    run, other = trained("llama"), bases("llama", "chatml", 1)
    with pytest.raises(ModelError, match="another base") as caught:
        exported(run, "merged", base=str(other))
    assert caught.value.exit_code == 4
    assert not (run / "merged").exists()
    exported(run, "merged", base=str(other), force_base=True, output=tmp_path / "forced")
    assert command("verify", run / "adapter", "--base", other)[0] == 4


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


def tamper(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path], None]) -> None:
    """Let a converter write something else."""
    original = function(FORMATS[name].write)

    def write(row: Any, work: Any, folder: Path) -> None:
        original(row, work, folder)
        change(folder)

    monkeypatch.setitem(FORMATS, name, replace(FORMATS[name], write=write))


@pytest.mark.usefixtures("in_process")
def test_an_artefact_that_equals_the_base_is_refused(
    trained: Callable[..., Path],
    bases: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing merged, and not seen by its KL alone: exit 6, nothing under the name."""
    run = trained("llama", train={"epochs": 1, "learning_rate": 1e-3})

    def as_base(row: Any, work: Any, folder: Path) -> None:
        merged, work.merged = work.merged, bases("llama")
        original(row, work, folder)
        work.merged = merged

    original = function(FORMATS["int8"].write)
    monkeypatch.setitem(FORMATS, "int8", replace(FORMATS["int8"], write=as_base))
    before = names(run)
    with pytest.raises(IntegrityError, match=r"is the base|than the base is") as caught:
        exported(run, "int8")
    assert caught.value.exit_code == 6
    assert names(run) == before


@pytest.mark.usefixtures("in_process")
def test_an_artefact_that_was_never_quantized_is_refused(
    trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("llama")

    def plain(row: Any, work: Any, folder: Path) -> None:
        shutil.copytree(work.merged, folder, dirs_exist_ok=True)

    monkeypatch.setitem(FORMATS, "nf4", replace(FORMATS["nf4"], write=plain))
    with pytest.raises(IntegrityError, match="never quantized"):
        exported(run, "nf4")
    assert not (run / "nf4").exists()


@pytest.mark.usefixtures("in_process")
def test_an_artefact_beyond_its_limit_is_refused(trained: Callable[..., Path]) -> None:
    run = trained("llama")
    with pytest.raises(IntegrityError, match="too far") as caught:
        exported(run, "nf4", max_kl=1e-6)
    assert "--max-kl" in caught.value.fix
    assert not (run / "nf4").exists()
    assert exported(run, "nf4", max_kl=10.0)["nf4"]["limit"] == 10.0


@pytest.mark.usefixtures("in_process")
def test_verify_finds_what_changed(trained: Callable[..., Path]) -> None:
    """A byte is seen by its sha256; other weights behind a matching manifest by their logits."""
    run = trained("llama")
    exported(run, "int8")
    file = run / "int8/config.json"
    good = file.read_bytes()
    file.write_bytes(good.replace(b"silu", b"gelu"))
    assert command("verify", run / "int8")[0] == 6
    file.write_bytes(good)
    assert command("verify", run / "int8")[0] == 0
    weights = run / "adapter/adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, weights)
    manifest = run / "adapter/MANIFEST.json"
    content = json.loads(manifest.read_text())
    content.pop("sha256")
    content["files"][weights.name] = {
        "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps(content | {"sha256": own}, indent=1, sort_keys=True) + "\n")
    code, (event,) = command("verify", run / "adapter")
    assert code == 6
    assert "no longer computes" in event["error"]["what"]


def test_killed_while_exporting(trained: Callable[..., Path]) -> None:
    """E16: kill -9 at any moment leaves the name free; the next export clears what was left."""
    run = trained("llama")
    command_line = [sys.executable, "-m", "tuner", "export", str(run), "--format", "merged"]
    child = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for _ in range(2400):
        if list(run.glob(".staging-merged-*")) or child.poll() is not None:
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(run.glob(".staging-*"))
    assert not (run / "merged").exists()
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(run.glob(".*"))


def test_names_that_are_not_there(trained: Callable[..., Path], tmp_path: Path) -> None:
    for arguments, word in (
        (["nowhere", "--format", "merged"], "no run, adapter or model"),
        ([tmp_path, "--format", "ggfu"], "no format"),
        ([tmp_path], "no format to export to"),
        ([tmp_path, "--format", "merged", "--onto", "moon"], "onto"),
        ([tmp_path, "--check", "tgi"], "check"),
    ):
        code, events = command("export", *arguments)
        assert code == 2
        assert word in events[-1]["error"]["what"]
    code, (event,) = command("export", "--formats")
    assert {item["name"] for item in event["items"]} == set(FORMATS)


CHATS = {
    "smollm2": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\n"
        "Be kind.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama2-like": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("system", ["", "Answer in one word."])
def test_the_modelfile_writes_what_the_chat_template_writes(
    name: str, system: str, bases: Callable[..., Path]
) -> None:
    """Ollama's template, filled in by hand, is the prompt that the model was trained on."""
    tokenizer = AutoTokenizer.from_pretrained(bases("llama"))
    tokenizer.chat_template = CHATS[name]
    found = modelfile.template(tokenizer)
    assert found is not None
    body, default = found
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": "Why?"})
    wanted = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    text = go(body, system or default, "Why?")
    if name == "llama2-like" and system:
        # It has no place for a system turn: the text goes before the question, and is not lost.
        assert text == "[INST] Answer in one word.\n\nWhy? [/INST]"
        return
    assert text == wanted
    assert (default == "Be kind.") == (name == "smollm2")


def go(body: str, system: str, prompt: str) -> str:
    """Just enough of Go's templates, up to the answer."""
    import re

    values = {"System": system, "Prompt": prompt}
    for key, value in values.items():
        body = re.sub(
            rf"{{{{ if \.{key} }}}}(.*?){{{{ end }}}}",
            lambda match, value=value: match[1] if value else "",
            body,
            flags=re.S,
        )
        body = body.replace(f"{{{{ .{key} }}}}", value)
    return body.partition("{{ .Response }}")[0]


def test_how_a_tokenizer_splits(bases: Callable[..., Path]) -> None:
    assert splits_like(AutoTokenizer.from_pretrained(bases("llama"))) == "gpt-2"
    assert splits_like(AutoTokenizer.from_pretrained(bases("qwen2"))) == "qwen2"


def test_gptq_moves_the_outputs_less_than_rounding() -> None:
    """On inputs that hang together; and equals rounding where they do not."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator)
    mixed = torch.randn(400, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    for size in (32, 64):
        errors = {}
        for name, (points, scales) in {
            "nearest": gptq.rounded(weight, size),
            "gptq": gptq.quantize(weight, mixed.T @ mixed, size),
        }.items():
            assert int(points.abs().max()) <= 8
            grid = (points.unflatten(1, (-1, size)) * scales[..., None]).flatten(1)
            errors[name] = float(((grid - weight) @ mixed.T).square().mean())
        assert errors["gptq"] < 0.7 * errors["nearest"]
        same, scales = gptq.quantize(weight, torch.eye(64), size)
        nearest, plain = gptq.rounded(weight, size)
        assert torch.allclose(scales, plain)
        # Halves may fall to either side.
        assert float((same == nearest).float().mean()) > 0.99


def test_packing_is_undone_by_shifts() -> None:
    points = torch.randint(-8, 8, (5, 64), dtype=torch.int8)
    words = int4.pack(points)
    back = torch.stack([(words >> (4 * place)) & 15 for place in range(8)], -1).flatten(1) - 8
    assert torch.equal(back.to(torch.int8), points)


def test_the_figures_by_hand() -> None:
    tuned_logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    base = torch.zeros(2, 3)
    found = tuned_logits * 0.75 + 5.0
    held = Held([{}, {}], [[(0, 0)], [(0, 1)]])
    figures = measure.compare(held, tuned_logits, found, base)
    p = torch.softmax(tuned_logits.double(), -1)
    q = torch.softmax(found.double(), -1)
    assert figures.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()))
    assert figures.kept == pytest.approx(0.75)
    assert figures.top1_agreement == 1.0
    assert figures.perplexity_tuned == pytest.approx(
        float(torch.exp(-torch.stack([p[0, 0], p[1, 1]]).log().mean())), rel=1e-5
    )
    broken = measure.compare(held, tuned_logits, torch.full((2, 3), float("nan")), base)
    assert broken.kl == float("inf")


def test_a_format_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="bitsandbytes") as caught:
        known(["int8"])
    assert "'bitsandbytes>=0.46'" in caught.value.fix


def test_verdicts() -> None:
    """A limit is a limit: NaN and infinity are never within it."""
    work = SimpleNamespace(job={"quantize": "none", "dtype": "float32"}, merged=Path("/nowhere"))
    for kl in (float("nan"), float("inf"), 0.101):
        figures = Measures(0.0, 0.0, kl, 1.0, 4)
        with pytest.raises(IntegrityError):
            limits.judge(FORMATS["int8"], figures, work, Path("/nowhere"), None)


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
