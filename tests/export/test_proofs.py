"""What is proven of an artefact, and what a proof refuses.

Every method's merge is proven in float32 and bfloat16; each wrong merge is refused, at a run's end
and from `tuner export`; and the table of limits in the docs is that of the code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import rows
from tests.export.exporting import command
from tests.methods.test_capabilities import SETTINGS, cell, load_again, make
from tuner.errors import IntegrityError
from tuner.export import adapter, merged, run_end
from tuner.export.proof import fresh_process, noise
from tuner.methods import METHODS
from tuner.model import fold
from tuner.recipe.formats import FORMATS
from tuner.record import proof_limits
from tuner.run import build

__all__ = ["cell"]
DTYPES = ("float32", "bfloat16")
MERGES = [name for name, row in METHODS.items() if row.mergeable and row.adapter]
# Bases that hold their weights otherwise: transposed, fused by expert, in two halves.
OTHERS = [*(("gpt2", name) for name in ("lora", "dora", "ia3", "vera", "fourierft"))]
OTHERS += [("mixtral", "lora"), ("t5", "lora")]


@pytest.fixture
def live(cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A plan and a live model whose trained tensors are away from their start, and its export."""
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)

    def start(name: str, dtype: str, key: str = "llama", by: float = 0.02) -> Any:
        setting = {**SETTINGS[key], "model": {"dtype": dtype}}
        monkeypatch.setitem(SETTINGS, key, setting)
        made = make(cell(name, key, data_rows=rows(6)))
        trained = build.start(made, build.load(made))
        torch.manual_seed(5)
        with torch.no_grad():
            for tensor, parameter in trained.model.named_parameters():
                if parameter.requires_grad and "ranknum" not in tensor:
                    parameter.add_(by * torch.randn_like(parameter))
        made.output.mkdir(parents=True, exist_ok=True)
        return made, trained

    return start


@pytest.mark.parametrize(("key", "name"), [*(("llama", name) for name in MERGES), *OTHERS])
def test_a_merge_in_bfloat16_is_proven_by_its_formula(
    key: str, name: str, live: Callable[..., Any]
) -> None:
    """Each stored value is the exact merge, rounded once; in float32 the runs of
    test_capabilities prove it."""
    made, trained = live(name, "bfloat16", key)
    found = {item["kind"]: item for item in run_end.export_run(made, trained, "f")}
    assert found["adapter"]["proof"] == "equal"
    assert found["merged"]["proof"] == "rounded"
    assert 0.7 < found["merged"]["weights_kept"] < 1.05
    assert found["merged"]["answers_kept"] <= 1


Weights = dict[str, torch.Tensor]
Q = "model.layers.{}.self_attn.q_proj"


def _lora(network: Any, layer: int) -> Any:
    return network.get_base_model().get_submodule(Q.format(layer))


@torch.no_grad()
def scaled_down(network: Any, share: float = 0.99) -> Any:
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.mul_(share)
    return TRUE(network)


def scaled_up(network: Any) -> Any:
    return scaled_down(network, 1.01)


@torch.no_grad()
def left_out(network: Any) -> Any:
    _lora(network, 1).lora_B["default"].weight.zero_()
    return TRUE(network)


@torch.no_grad()
def one_row(network: Any) -> Any:
    whole = TRUE(network)
    whole.get_submodule(Q.format(0)).weight[3] *= 1.01
    return whole


def wrong_alpha(network: Any) -> Any:
    _lora(network, 0).scaling["default"] *= 2
    return TRUE(network)


@torch.no_grad()
def exchanged(network: Any) -> Any:
    whole = TRUE(network)
    first, second = (whole.get_submodule(Q.format(layer)).weight for layer in (0, 1))
    first.data, second.data = second.data, first.data
    return whole


@torch.no_grad()
def untouched_row(network: Any) -> Any:
    whole = TRUE(network)
    whole.model.embed_tokens.weight[7] *= 1.01
    return whole


TRUE = fold.fold
MUTANTS = [scaled_down, scaled_up, left_out, one_row, wrong_alpha, exchanged, untouched_row]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_merge_is_refused(
    mutant: Any,
    dtype: str,
    live: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """At the end of a run, where what is right is kept, and by `tuner export`."""
    made, trained = live("lora", dtype)
    monkeypatch.setattr(merged, "fold", mutant)
    monkeypatch.setattr(fold, "fold", mutant)
    with pytest.raises(IntegrityError, match="the merged artefact is not the model") as caught:
        run_end.export_run(made, trained, "f")
    assert "differs" in caught.value.why
    assert (made.output / "adapter").is_dir()
    assert not (made.output / "merged").exists()
    code, events = merge(made, tmp_path / "out")
    assert (code, "differs" in str(events[-1])) == (6, True), events[-1]
    assert not (tmp_path / "out" / "merged").exists()


def merge(made: Any, output: Path, *formats: str) -> tuple[int, list[dict[str, Any]]]:
    """`tuner export` of the adapter that a run left."""
    asked = ["export", made.output / "adapter", "--force-base", "--base", made.base.folder]
    for name in formats or ("merged",):
        asked += ["--format", name]
    return command(*asked, "--output", output)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_merge_is_exported_and_verified(
    dtype: str, live: Callable[..., Any], tmp_path: Path
) -> None:
    made, trained = live("lora", dtype)
    run_end.export_run(made, trained, "f")
    code, events = merge(made, tmp_path / "out", "merged", "adapter")
    assert code == 0, events[-1]
    merges, copy = events[-1]["artefacts"]
    assert merges["proof"] == ("equal" if dtype == "float32" else "rounded")
    assert 0.99 < merges["weights_kept"] < 1.01
    assert 0.9 < merges["answers_kept"] <= 1
    assert copy["proof"] == "equal"
    code, (event,) = command("verify", tmp_path / "out" / "merged")
    assert (code, event["proof"]) == (0, merges["proof"])
    assert event["weights_kept"] == merges["weights_kept"]


def _altered(name: str, tensors: Weights, config: dict[str, Any]) -> None:
    """Change the file of an adapter as a mutant of this name."""
    first, second = (f"base_model.model.{Q.format(n)}.lora_B.weight" for n in (0, 1))
    if name in ("scaled_down", "scaled_up"):
        for key in tensors:
            if "lora_B" in key:
                tensors[key] *= 0.99 if name == "scaled_down" else 1.01
    elif name == "left_out":
        tensors[first].zero_()
    elif name == "one_row":
        tensors[first][3] *= 1.01
    elif name == "wrong_alpha":
        config["lora_alpha"] *= 1.01
    else:
        tensors[first], tensors[second] = tensors[second], tensors[first]


def _alter(name: str, folder: Path) -> None:
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, said = load_file(file), json.loads(config.read_text())
    _altered(name, tensors, said)
    save_file(tensors, file, {"format": "pt"})
    config.write_text(json.dumps(said))


ALTERED = ["scaled_down", "scaled_up", "left_out", "one_row", "wrong_alpha", "exchanged"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mutant", ALTERED)
def test_a_wrong_adapter_file_is_refused_at_the_end_of_a_run(
    mutant: str, dtype: str, live: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a merged model's proof alone: it must not rest on a file that is wrong itself."""
    made, trained = live("lora", dtype)

    def write(plan: Any, trained: Any, folder: Path) -> None:
        TRUE_ADAPTER(plan, trained, folder)
        _alter(mutant, folder)

    monkeypatch.setitem(FORMATS, "adapter", replace(FORMATS["adapter"], live=write))
    with pytest.raises(IntegrityError, match="the adapter artefact is not the model"):
        run_end.export_run(made, trained, "f")
    assert not (made.output / "adapter").exists()


TRUE_ADAPTER = adapter.write_adapter


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("mutant", ALTERED)
def test_a_wrong_copy_of_an_adapter_is_refused_by_export(
    mutant: str,
    live: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    made, trained = live("lora", "bfloat16")
    run_end.export_run(made, trained, "f")
    true = adapter.copy

    def copy(source: Path, folder: Path, base: str, *, portable: bool) -> None:
        true(source, folder, base, portable=portable)
        _alter(mutant, folder)

    monkeypatch.setattr(adapter, "copy", copy)
    code, events = merge(made, tmp_path / "out", "adapter")
    assert code == 6, events[-1]
    assert not (tmp_path / "out" / "adapter").exists()


@pytest.mark.parametrize("change", ["missing", "added"])
def test_a_tensor_too_few_or_too_many_is_refused(
    change: str, live: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, trained = live("lora", "float32")

    def write(plan: Any, trained: Any, folder: Path) -> None:
        merged.write_merged(plan, trained, folder)
        tensors = load_file(folder / "model.safetensors")
        if change == "missing":
            del tensors["model.norm.weight"]
        else:
            tensors["model.extra.weight"] = torch.zeros(2)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setitem(FORMATS, "merged", replace(FORMATS["merged"], live=write))
    with pytest.raises((IntegrityError, SystemExit), match=r"model\.(norm|extra)\.weight"):
        run_end.export_run(made, trained, "f")


def test_what_rounding_loses_is_said(live: Callable[..., Any]) -> None:
    """An update smaller than bfloat16 can hold: the merge is exact, rounded, and mostly lost."""
    made, trained = live("lora", "bfloat16", by=0.0005)
    *_, found = run_end.export_run(made, trained, "f")
    assert found["proof"] == "rounded"
    assert found["weights_kept"] < 0.95
    words = proof_limits.warning(found)
    assert words is not None
    assert "float32" in words
    assert "keep the adapter separate" in words
    assert "keeps" in proof_limits.verdict(found)


def test_logits_beyond_the_noise_are_refused() -> None:
    """As a mean and as KL; a single large difference alone refuses nothing, a NaN does."""
    torch.manual_seed(0)
    wanted = [torch.randn(8, 50)]
    limit = noise.limit(noise.ReadingDistance(0.0, 0.0), wanted, "bfloat16")
    one = [wanted[0].clone()]
    one[0][3, 7] += 0.25
    assert noise.apart(one, wanted).within(limit)
    assert not noise.apart([wanted[0] * 1.05], wanted).within(limit)
    one[0][0, 0] = float("nan")
    assert not noise.apart(one, wanted).within(limit)
    wider = noise.limit(noise.ReadingDistance(1.0, 1.0), wanted, "bfloat16")
    assert wider == noise.ReadingDistance(proof_limits.NOISE_FACTOR, proof_limits.NOISE_FACTOR)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    from tuner.export.qat_grid import LIMIT
    from tuner.recipe.formats import FORMATS

    text = (Path(__file__).parents[2] / "docs" / "proofs.md").read_text("utf-8")
    said = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", text, re.MULTILINE))
    known: dict[str, Any] = {
        "NOISE_FACTOR": proof_limits.NOISE_FACTOR,
        "APART": proof_limits.APART,
        "UNPROVEN": proof_limits.UNPROVEN,
        "REQUANTIZED": proof_limits.REQUANTIZED,
        "KEPT": proof_limits.KEPT,
        "KEPT_WELL": proof_limits.KEPT_WELL,
        "trained grid": LIMIT,
    }
    known |= {f"NOISE_ROUNDINGS {kind}": n for kind, n in proof_limits.NOISE_ROUNDINGS.items()}
    for kind, (mean, kl) in proof_limits.DRIFT.items():
        known |= {f"DRIFT {kind}, mean": mean, f"DRIFT {kind}, KL": kl}
    known |= {row.name: row.divergence for row in FORMATS.values() if row.divergence is not None}
    assert {name: float(value) for name, value in said.items()} == known
