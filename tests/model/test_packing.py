"""Packed rows see nothing of each other: M09, M11, M13, and the order of the rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests import oracle
from tests.tiny import KINDS
from tuner.data.tokens.collate import collate_packed, collate_padded
from tuner.data.tokens.example import IGNORED, Example
from tuner.data.tokens.order import Stream
from tuner.model.kernels import attention
from tuner.plan.decide import PACKED_FAMILIES
from tuner.tasks.sft import token_loss

PACKED = [kind for kind in KINDS if kind.removesuffix("-tied") in PACKED_FAMILIES]


def example(length: int, seed: int, prompt: int | None = None) -> Example:
    """A row of random ids whose second half (or what follows `prompt`) is supervised."""
    generator = random.Random(seed)
    ids = [generator.randrange(5, 500) for _ in range(length)]
    start = length // 2 if prompt is None else prompt
    return Example(f"row:{seed}", ids, [place >= start for place in range(length)])


ROWS = [example(length, seed) for seed, length in enumerate((7, 13, 21, 5))]


def load(folder: Path, implementation: str = attention.ROWS, **changes: Any) -> Any:
    attention.register()
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=implementation, dtype=torch.float32, **changes
    )


def loss_and_gradients(model: Any, batches: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    model.zero_grad()
    count = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        inputs = dict(batch)
        labels = inputs.pop("labels")
        loss = token_loss(model(**inputs, use_cache=False), labels, count)
        loss.backward()
        total += float(loss)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return total, gradients


def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max() / b[k].abs().max().clamp_min(1e-12)) for k in b)


@pytest.mark.parametrize("kind", PACKED)
def test_a_pack_is_its_rows_alone(kind: str, bases: Callable[..., Path]) -> None:
    """M09: loss and gradients of a pack equal the oracle's over the rows alone, to 1e-5."""
    model = load(bases(kind))
    packed_loss, packed = loss_and_gradients(model, [collate_packed(ROWS)])
    reference = load(bases(kind), "eager")
    loss = oracle.step_loss(reference, ROWS)
    loss.backward()
    alone = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    assert packed_loss == pytest.approx(float(loss), rel=1e-6)
    assert largest(packed, alone) < 1e-5


@pytest.mark.parametrize("kind", PACKED)
def test_changing_a_row_leaves_the_others_bit_for_bit(
    kind: str, bases: Callable[..., Path]
) -> None:
    """M09"""
    model = load(bases(kind)).eval()
    batch = collate_packed(ROWS)
    for key in ("labels", "logits_to_keep"):
        batch.pop(key)
    with torch.no_grad():
        before = model(**batch, use_cache=False).logits
        batch["input_ids"] = batch["input_ids"].clone()
        batch["input_ids"][0, 7:20] = (batch["input_ids"][0, 7:20] + 3) % 500
        after = model(**batch, use_cache=False).logits
    assert torch.equal(before[:, :7], after[:, :7])
    assert torch.equal(before[:, 20:], after[:, 20:])
    assert not torch.equal(before[:, 7:20], after[:, 7:20])


@pytest.fixture
def number_of_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Of the largest logit, in units of the type's rounding. Matrix products choose their kernel, and so
# the order of their sums, by the number of all tokens and of threads; each order rounds in its way.
ROUNDING = {torch.float32: 32, torch.bfloat16: 4}
# Wide enough for several kernels.
WIDE = LlamaConfig(
    vocab_size=512,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=2,
    num_attention_heads=9,
    num_key_value_heads=3,
    attn_implementation=attention.ROWS,
)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_row_in_a_pack_is_the_row_alone_up_to_rounding(
    dtype: torch.dtype,
    count: int,
    number_of_threads: Callable[[int], None],
) -> None:
    """Whatever its length and theirs; and what they say changes no bit, with any threads."""
    attention.register()
    torch.manual_seed(0)
    model = LlamaForCausalLM(WIDE).eval().to(dtype)
    number_of_threads(count)

    def logits(rows: list[Example]) -> torch.Tensor:
        batch = collate_packed(rows)
        given = {key: batch[key] for key in batch if key not in ("labels", "logits_to_keep")}
        with torch.no_grad():
            result: torch.Tensor = model(**given, use_cache=False).logits[0]
        return result

    largest_seen = 0.0
    for length in (1, 9, 33, 100):
        row = example(length, 1)
        alone = logits([row])
        for lengths in ((1,), (120,), (13, 50, 7), (300, 4)):
            before = sum(lengths)
            packed, others = (
                logits([*(example(n, seed + k) for k, n in enumerate(lengths)), row])
                for seed in (10, 20)
            )
            assert torch.equal(packed[before:], others[before:])
            assert not torch.equal(packed[:before], others[:before])
            apart = float((packed[before:] - alone).float().abs().max())
            unit = torch.finfo(dtype).eps * float(alone.float().abs().max())
            largest_seen = max(largest_seen, apart / unit)
    assert largest_seen <= ROUNDING[dtype]


def test_a_sliding_window_holds_inside_packed_rows(bases: Callable[..., Path]) -> None:
    """M09"""
    folder = bases("qwen2")
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    layers = ["sliding_attention", "sliding_attention"]
    packed = load(folder, layer_types=layers, **window)
    plain = load(folder, "eager", layer_types=layers, **window)
    wide = load(folder, "eager")
    loss, _ = loss_and_gradients(packed, [collate_packed(ROWS)])
    assert loss == pytest.approx(oracle.mean_loss(plain, ROWS), rel=1e-6)
    assert abs(loss - oracle.mean_loss(wide, ROWS)) > 1e-4


def test_a_family_that_is_not_isolated_is_padded_or_refused(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    """M09"""
    from tuner.errors import RecipeError
    from tuner.machine import hardware
    from tuner.plan import make
    from tuner.recipe import load as recipe_load

    made = make.make(
        recipe_load.load(make_recipe("mixtral")), hardware.detect(), output=Path("unused")
    )
    assert made.packing is False
    assert "not proven isolated in mixtral" in made.values["data.packing"].origin
    asked = recipe_load.load(make_recipe("mixtral", data={"packing": True}))
    with pytest.raises(RecipeError, match="not isolated"):
        make.make(asked, hardware.detect(), output=Path("unused"))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_either_side_gives_the_packed_loss(
    kind: str, bases: Callable[..., Path]
) -> None:
    """M13"""
    model = load(bases(kind), "sdpa")
    right, _ = loss_and_gradients(model, [collate_padded(ROWS)])
    assert right == pytest.approx(oracle.mean_loss(load(bases(kind), "eager"), ROWS), rel=1e-6)


def test_no_token_is_lost_doubled_or_moved_in_200_packs() -> None:
    """M11"""
    generator = random.Random(5)
    for number in range(200):
        rows = [
            example(generator.randrange(2, 40), number * 100 + k)
            for k in range(generator.randrange(1, 9))
        ]
        batch = collate_packed(rows)
        assert batch["input_ids"][0].tolist() == [token for row in rows for token in row.input_ids]
        restarts = [place for row in rows for place in range(len(row.input_ids))]
        assert batch["position_ids"][0].tolist() == restarts
        lengths = batch["cu_seq_lens_q"].diff().tolist()
        assert lengths == [len(row.input_ids) for row in rows]
        wanted = [
            token
            for row in rows
            for place, token in enumerate(row.input_ids)
            if row.supervised[place] and place > 0
        ]
        assert batch["labels"][0, 1:].tolist() == wanted
        following = batch["input_ids"][0][batch["logits_to_keep"] + 1]
        assert following.tolist() == wanted


def test_padding_is_known_by_length_not_by_id() -> None:
    """M14: a supervised token that is the padding id keeps its label and its attention."""
    row = Example("row:1", [9, 7, 3, 7], [False, False, True, True])
    batch = collate_padded([row, example(6, 2)], pad_id=7)
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 1, 0, 0]
    kept = batch["labels"][0, 1:].tolist()
    places = (batch["logits_to_keep"] + 1).tolist()
    assert [kept[places.index(2)], kept[places.index(3)]] == [3, 7]


def test_every_epoch_has_every_row_once_and_resuming_changes_nothing() -> None:
    rows = [example(4, seed) for seed in range(18)]
    whole = Stream(rows, 7, 0, 54, 4, grouped=False)
    for epoch in range(3):
        assert sorted(whole.places[epoch * 18 : epoch * 18 + 18]) == list(range(18))
    assert whole.places[:18] != whole.places[18:36]
    rest = Stream(rows, 7, 20, 54, 4, grouped=False)
    assert rest.places == whole.places[20:]
    assert Stream(rows, 8, 0, 54, 4, grouped=False).places != whole.places


def test_grouping_keeps_the_rows_of_each_step() -> None:
    rows = [example(2 + seed * 5 % 17, seed) for seed in range(16)]
    plain = Stream(rows, 7, 0, 32, 8, grouped=False)
    grouped = Stream(rows, 7, 0, 32, 8, grouped=True)
    for step in range(4):
        first = plain.places[step * 8 : step * 8 + 8]
        second = grouped.places[step * 8 : step * 8 + 8]
        assert sorted(first) == sorted(second)
        lengths = [len(rows[place].input_ids) for place in second]
        assert lengths == sorted(lengths)


def test_padded_labels_stand_behind_one_ignored_column() -> None:
    """transformers counts labels from the second column on; the count must be the targets'."""
    batch = collate_padded(ROWS)
    packed = collate_packed(ROWS)
    targets = sum(sum(row.supervised[1:]) for row in ROWS)
    assert int((batch["labels"][:, 1:] != IGNORED).sum()) == targets
    assert int((packed["labels"][:, 1:] != IGNORED).sum()) == targets
    assert np.all(batch["labels"][:, 0].numpy() == IGNORED)
