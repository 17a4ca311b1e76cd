"""Kernels against the same arithmetic in float64, and rows that do not see each other."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.gpu import runs
from tests.gpu.program import Bench
from tuner.model.kernels.cross_entropy import cross_entropies
from tuner.run import build

# Of a product in bfloat16, relative to float64.
MOST = 1e-2


def apart(one: Tensor, exact: Tensor) -> float:
    """Return the distance as a share of the exact value, over the whole tensor."""
    exact = exact.double().cpu()
    return float((one.double().cpu() - exact).norm() / exact.norm())


def check(bench: Bench) -> None:
    """Attention, norm, loss; then whole packed rows."""
    torch.manual_seed(1)
    for name, worst in {**_attention(bench), "rms_norm": _norm(), "loss": _loss()}.items():
        bench.bar(name, worst, most=MOST)
    _isolated(bench)


def _attention(bench: Bench) -> dict[str, float]:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    tokens = 12 if bench.fake else 512
    full, cut = [tokens, tokens // 2, 3], [tokens // 4, tokens // 3, 2]
    # heads, heads of keys, window, lengths of queries, of keys
    cases: dict[str, tuple[int, int, int, list[int], list[int]]] = {
        "varlen": (4, 4, -1, full, full),
        "varlen_grouped": (8, 2, -1, full, full),
        "varlen_window": (4, 2, tokens // 3, full, full),
        # Fewer queries than keys: the last query sees the last key.
        "varlen_unequal": (4, 2, -1, cut, full),
    }
    found = {}
    for name, (heads, groups, window, queries, keys) in cases.items():
        given: dict[str, Any] = {"window_size": (window, 0)}
        if "window_size" not in known:
            if window >= 0:
                continue
            given = {"is_causal": True}
        if "enable_gqa" in known:
            given["enable_gqa"] = heads != groups
        found[name] = _one_attention(heads, groups, window, (queries, keys), given)
    return found


def _one_attention(
    heads: int,
    groups: int,
    window: int,
    lengths: tuple[Sequence[int], Sequence[int]],
    given: dict[str, Any],
) -> float:
    """Return the largest error of the result and the gradients."""
    from torch.nn.attention.varlen import varlen_attn

    parts = [
        torch.randn(sum(count), size, 64).bfloat16()
        for count, size in zip(
            (lengths[0], *[lengths[1]] * 2), (heads, groups, groups), strict=True
        )
    ]
    mine = [part.cuda().requires_grad_() for part in parts]
    exact = [part.double().requires_grad_() for part in parts]
    ends = [torch.tensor([0, *each]).cumsum(0).to(torch.int32).cuda() for each in lengths]
    made: Any = varlen_attn(*mine, *ends, *map(max, lengths), **given)
    rows = []
    query, key, value = (
        part.split(list(n)) for part, n in zip(exact, (*lengths, lengths[1]), strict=True)
    )
    for q, k, v in zip(query, key, value, strict=True):
        place = torch.arange(len(q))[:, None] + len(k) - len(q)
        other = torch.arange(len(k))[None]
        seen = (other <= place) & ((other >= place - window) | (window < 0))
        rows.append(
            functional.scaled_dot_product_attention(
                *(part.transpose(0, 1)[None] for part in (q, k, v)),
                attn_mask=seen,
                enable_gqa=heads != groups,
            )[0].transpose(0, 1)
        )
    expected = torch.cat(rows)
    dy = torch.randn(expected.shape, dtype=torch.float64)
    expected.backward(dy)
    made.backward(dy.to("cuda", torch.bfloat16))
    errors = [apart(made.detach(), expected.detach())]
    for one, other in zip(mine, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        errors.append(apart(one.grad, other.grad))
    return max(errors)


def _norm() -> float:
    x, weight = torch.randn(64, 128).bfloat16(), torch.rand(128).bfloat16() + 0.5
    both = []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float64)):
        inputs = [part.to(device, dtype).requires_grad_() for part in (x, weight)]
        made = functional.rms_norm(inputs[0], (128,), inputs[1], 1e-6)
        made.backward(torch.linspace(-1, 1, 64 * 128).view(64, 128).to(device, dtype))
        both.append([made.detach(), *(part.grad for part in inputs)])
    return max(apart(one, exact) for one, exact in zip(*both, strict=True))


def _loss() -> float:
    logits, targets = torch.randn(300, 512), torch.randint(0, 512, (300,))
    targets[::5] = -100
    both = []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float64)):
        # A new tensor that is not a leaf: the loss may compute in its place.
        leaf = logits.bfloat16().to(device, dtype).requires_grad_()
        made = cross_entropies(leaf * 1.0, targets.to(device)).sum()
        made.backward()
        both.append([made.detach()[None], leaf.grad])
    return max(apart(one, exact) for one, exact in zip(*both, strict=True))


def _isolated(bench: Bench) -> None:
    """Change a row: the others' scores stay the same to the bit, for the same number of tokens."""
    folder = Path(bench.folder) / "isolated"
    folder.mkdir()
    made = runs.plan(runs.write(folder, method={"name": "lora", "r": 4}))
    model = build.load(made)
    rows = sorted(made.prepared.train, key=lambda row: len(row.input_ids))[:4]
    ids = list(rows[0].input_ids)
    other = [*ids[:-4], *((token + 1) % 500 for token in ids[-4:])]
    changed = [dataclasses.replace(rows[0], input_ids=other), *rows[1:]]
    found = []
    for each in (rows, changed):
        batch = made.training_collate(each)
        batch.pop("labels")
        batch.pop("logits_to_keep")
        moved = {k: v.cuda() if torch.is_tensor(v) else v for k, v in batch.items()}
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            found.append(model(**moved, use_cache=False).logits.float().cpu())
    moved_by = (found[0] - found[1]).abs()
    # The first row is whole, also where rows share their beginning; what follows are the others.
    end = len(ids)
    bench.bar("others_moved_by", float(moved_by[:, end:].max()), most=0.0)
    bench.bar("own_moved_by", float(moved_by[:, end - 4 : end].max()), least=1e-3)
