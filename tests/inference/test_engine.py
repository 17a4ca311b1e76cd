"""Adapters that take turns on one base.

The independent measure of an adapter is plain transformers and peft, with nothing else loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.inference.conversation import Make, alone, logits, opened, spoiled, written
from tests.methods.test_capabilities import OPTIONS
from tests.tokenizers import make_tokenizer
from tuner.errors import ModelError
from tuner.inference import load
from tuner.methods import METHODS
from tuner.recipe.schema_model import ModelSection

ADAPTERS = [name for name, row in METHODS.items() if row.adapter]
CASES = [("llama", ADAPTERS)]
CASES += [
    ("gpt2", ["lora", "prefix", "bottleneck", "prompt", "adaption_prompt"]),
    ("mixtral", ["prefix", "lora", "ptuning"]),
    ("t5", ["lora", "prefix", "prompt", "bottleneck"]),
]


@pytest.mark.parametrize(("kind", "names"), CASES, ids=[kind for kind, _ in CASES])
def test_adapters_of_any_kind_answer_as_if_alone(
    kind: str, names: list[str], bases: Callable[..., Path], adapter: Make
) -> None:
    """All on one base; in turn, and back to a base that never changed by a bit."""
    base, sequence = bases(kind), kind == "t5"
    found = opened(base)
    found.stops = [511]
    tensors = dict(found.active.network.named_parameters())
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    modules = dict(found.active.network.named_modules())
    first, text = logits(found.active.network, sequence), found.answer([9, 30, 41], 8).text
    folders = {name: adapter(name, kind) for name in names}
    for name, folder in folders.items():
        load.attach(found, folder, name)
    expected, answers, types = {}, {}, {}
    for name, folder in folders.items():
        lone = alone(base, folder)
        types[name] = lone.active_peft_config.peft_type
        tasks = name == "multitask_prompt"
        expected[name] = logits(lone, sequence, tasks)
        further = {"task_ids": torch.tensor([0])} if tasks else {}
        answers[name] = written(lone, [9, 30, 41], **further)
    decode = found.active.tokenizer.decode
    for name in [*names, *reversed(names)]:
        found.use(name)
        assert found.active.network.active_peft_config.peft_type == types[name]
        assert torch.equal(
            logits(found.active.network, sequence, "multi" in name), expected[name]
        ), name
        assert not torch.equal(expected[name], first), name
        assert found.answer([9, 30, 41], 8).text == decode(answers[name]).strip(), name
        found.use(None)
        assert torch.equal(logits(found.active.network, sequence), first), name
        assert found.answer([9, 30, 41], 8).text == text
    assert dict(found.active.network.named_modules()) == modules
    now = dict(found.active.network.named_parameters())
    assert all(now[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(now[name], tensor) for name, tensor in kept.items())


def test_an_adapter_that_fails_to_load_leaves_everything_as_it_was(
    bases: Callable[..., Path], adapter: Make, tmp_path: Path
) -> None:
    found = opened(bases("llama"), adapter("ia3"))
    found.use(adapter("ia3").name)
    before = logits(found.active.network)
    broken = spoiled(adapter("lora"), tmp_path / "broken", lambda tensors: tensors.popitem())
    with pytest.raises(ModelError, match="does not fit"):
        load.attach(found, broken, "broken")
    assert list(found.adapters) == [adapter("ia3").name]
    assert torch.equal(logits(found.active.network), before)
    load.attach(found, adapter("lora"), "lora")
    found.use("lora")
    assert torch.equal(logits(found.active.network), logits(alone(bases("llama"), adapter("lora"))))


class Stop(BaseException):
    """As Ctrl-C: not an Exception."""


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_an_interrupted_answer_leaves_the_base_as_it_was(
    name: str, bases: Callable[..., Path], adapter: Make
) -> None:
    found = opened(bases("llama"), adapter(name))
    first = found.answer([9, 30, 41], 12)
    found.use(adapter(name).name)

    def interrupt(piece: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        found.answer([9, 30, 41], 12, show=interrupt)
    found.use(None)
    assert found.answer([9, 30, 41], 12) == first


def test_an_answer_is_shown_as_it_is_written(bases: Callable[..., Path]) -> None:
    found = opened(bases("llama"))
    found.stops = [511]
    pieces: list[str] = []
    answer = found.answer([9, 30, 41], 8, show=pieces.append)
    ids = written(alone(bases("llama"), None), [9, 30, 41])
    assert answer.text == "".join(pieces) == found.active.tokenizer.decode(ids).strip()
    assert len(pieces) > 2
    assert (answer.stopped, answer.tokens) == ("length", 8)
    found.stops = [511, ids[3]]
    cut = ids.index(ids[3])
    answer = found.answer([9, 30, 41], 8)
    assert answer.text == found.active.tokenizer.decode(ids[:cut]).strip()
    assert (answer.stopped, answer.tokens) == ("eos", cut)


def test_characters_of_several_tokens_are_shown_whole(bases: Callable[..., Path]) -> None:
    from tuner.inference.listener import Listener

    tokenizer = make_tokenizer("chatml")
    ids = tokenizer("né 中文 🙂 x", add_special_tokens=False)["input_ids"]
    assert len(ids) > 12
    pieces: list[str] = []
    listener = Listener(tokenizer, [2], pieces.append)
    for token in [0, *ids, 2]:
        listener.put(torch.tensor([token]))
    listener.end()
    assert "".join(pieces) == "né 中文 🙂 x" == listener.answer().text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_the_base_ends_where_its_configuration_says(
    bases: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(bases("llama"), folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [7, 8]}))
    assert opened(folder).stops == sorted({2, 7, 8, opened(folder).active.tokenizer.eos_token_id})


def test_virtual_tokens_take_room(bases: Callable[..., Path], adapter: Make) -> None:
    found = opened(bases("llama"), adapter("prompt"))
    assert found.active.room == 512
    found.use(adapter("prompt").name)
    assert found.active.room == 512 - OPTIONS["prompt"]["num_virtual_tokens"]


@pytest.mark.parametrize(("dtype", "fix"), [("float16", "on the CPU"), ("float32", "tuner verify")])
def test_scores_that_are_no_numbers_are_refused(
    dtype: str, fix: str, bases: Callable[..., Path]
) -> None:
    """The likeliest of them would be token 0, again and again. What fits into float32 need not fit
    into float16."""
    section = ModelSection(base=str(bases("llama")), dtype=dtype)  # type: ignore[arg-type]
    found = load.open_base(section, Path(), "cpu")
    found.answer([9, 30, 41], 2)
    with torch.no_grad():
        found.active.network.lm_head.weight.mul_(1e5 if dtype == "float16" else float("nan"))
    with pytest.raises(ModelError, match="scores are not finite") as caught:
        found.answer([9, 30, 41], 2)
    assert caught.value.why == f"it computes in {dtype}"
    assert fix in caught.value.fix


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_adapters_take_turns_on_a_quantized_base(
    quantize: str, bases: Callable[..., Path], adapter: Make
) -> None:
    section = ModelSection(base=str(bases("llama")), dtype="float32", quantize=quantize)  # type: ignore[arg-type]
    found = load.open_base(section, Path(), "cpu")
    first, modules = logits(found.active.network), dict(found.active.network.named_modules())
    forwards = [module.forward for module in modules.values()]
    expected = {}
    for name in ("lora", "prefix", "bottleneck"):
        lone = load.open_base(section, Path(), "cpu")
        load.attach(lone, adapter(name), name)
        lone.use(name)
        expected[name] = logits(lone.active.network)
        load.attach(found, adapter(name), name)
    for name in (*expected, *reversed(expected)):
        found.use(name)
        assert torch.equal(logits(found.active.network), expected[name])
        assert not torch.equal(expected[name], first)
        found.use(None)
        assert torch.equal(logits(found.active.network), first)
    assert dict(found.active.network.named_modules()) == modules
    assert [module.forward for module in modules.values()] == forwards
