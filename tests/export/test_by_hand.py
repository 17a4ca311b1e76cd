"""Figures, packing and GPTQ, checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from tuner.errors import IntegrityError, ModelError
from tuner.export import gptq, int4, limits
from tuner.export.gguf.model import splits_like
from tuner.export.proof import measure
from tuner.export.proof.measure import Measures, ProbeRows
from tuner.recipe.formats import FORMATS, known

# Where llama.cpp is installed, it runs every GGUF file.
pytestmark = pytest.mark.llama


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
    held = ProbeRows([{}, {}], [[(0, 0)], [(0, 1)]])
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
