"""Where virtual tokens start, what they are exported as, and multitask prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import rows, write_rows
from tuner.console.console import Console
from tuner.errors import IntegrityError, ModelError, RecipeError
from tuner.export import run_end
from tuner.export.virtual_tokens import report
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.run import build as run_build
from tuner.run import spine

pytestmark = pytest.mark.usefixtures("in_process")

TEXT = "The tenant shall pay the rent on the first day of each month."
WEIGHTS = "adapter/adapter_model.safetensors"
ROW = [9, 30, 41, 77, 120, 6, 300]


def make(recipe: Path) -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="sft")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "run")


def build(made: plan.Plan) -> Any:
    network = run_build.start(made, run_build.load(made)).model
    return network.eval()


STARTS: list[dict[str, Any]] = [
    {"name": "prefix"},
    {"name": "prefix", "projection": "none"},
    {"name": "ptuning_v2"},
    {"name": "prompt"},
    {"name": "ptuning", "encoder": "mlp"},
    {"name": "ptuning", "encoder": "lstm", "num_layers": 1, "hidden_size": 16},
    {"name": "multitask_prompt", "ranks": 2},
]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", STARTS, ids=lambda m: "-".join(map(str, m.values())))
def test_a_start_from_text_is_the_text_before_the_row(
    method: dict[str, Any], kind: str, make_recipe: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """So that a new prompt leaves the base what it was: an MLP or LSTM included."""
    options = {**method, "num_virtual_tokens": 6, "init": "text", "init_text": TEXT}
    made = make(make_recipe(kind, method=options))
    network = build(made)
    further = {"task_ids": torch.tensor([0])} if method["name"] == "multitask_prompt" else {}
    with torch.no_grad():
        found = network(input_ids=torch.tensor([ROW]), **further).logits[0, -len(ROW) :]
        text = made.tokenizer(TEXT, add_special_tokens=False)["input_ids"][:6]
        base = AutoModelForCausalLM.from_pretrained(bases(kind), dtype=torch.float32)
        wanted = base(input_ids=torch.tensor([text + ROW])).logits[0, 6:]
    if method["name"] == "multitask_prompt":
        # The second rank starts near nothing, not at nothing.
        assert float((found - wanted).abs().max()) < 0.05 * float(wanted.abs().max())
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_prefix_is_written_by_a_network_and_ptuning_v2_is_not(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """Each at a rate of its own; without its network the one is the other, to the last byte."""
    methods = {
        "prefix": {"name": "prefix"},
        "direct": {"name": "prefix", "projection": "none"},
        "ptuning_v2": {"name": "ptuning_v2"},
    }
    rates, saved = {}, {}
    for out, method in methods.items():
        recipe = make_recipe(
            method={**method, "num_virtual_tokens": 4},
            train={"learning_rate": "auto"},
            export={"formats": ["adapter"]},
        )
        found = run_recipe(recipe, out)
        rates[out] = found["plan"]["values"]["train.learning_rate"]["value"]
        saved[out] = load_file(tmp_path / out / WEIGHTS)["prompt_embeddings"]
    assert rates == {"prefix": 3e-4, "direct": 1e-2, "ptuning_v2": 1e-2}
    assert torch.equal(saved["direct"], saved["ptuning_v2"])
    assert saved["prefix"].shape == saved["direct"].shape
    assert not torch.allclose(saved["prefix"], saved["direct"])


def test_a_prefix_of_before_is_resumed_by_the_key_that_the_refusal_names(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A recipe that did not say whether there is a network meant none."""

    def recipe(**method: Any) -> Path:
        return make_recipe(
            method={"name": "prefix", "num_virtual_tokens": 4, **method},
            train={"learning_rate": "auto"},
            export={"formats": ["adapter"]},
        )

    with monkeypatch.context() as patch:
        patch.setattr(
            run_end, "export_run", lambda *_: (_ for _ in ()).throw(ModelError("cut short"))
        )
        with pytest.raises(ModelError, match="cut short"):
            run_recipe(recipe(projection="none"))
    with pytest.raises(IntegrityError) as caught:
        run_recipe(recipe(), resume=True)
    assert caught.value.fix.startswith("resume with --set method.projection=none --set train.")
    assignments = [word for word in caught.value.fix.replace(",", "").split() if "=" in word]
    assert assignments == ["method.projection=none", "train.learning_rate=0.01"]
    loaded = recipe_load.load(recipe(), assignments, verb="sft")
    made = plan_make.make(loaded, hardware.detect(), output=tmp_path / "run")
    assert spine.run(made, resume=True, console=Console(quiet=True))["status"] == "done"


def test_the_text_is_the_rows_own_where_none_is_given(make_recipe: Callable[..., Path]) -> None:
    made = make(make_recipe(method={"name": "prompt", "num_virtual_tokens": 30}))
    network = build(made)
    ids = [token for row in made.prepared.train for token in row.input_ids][:30]
    wanted = network.word_embeddings(torch.tensor(ids))
    assert torch.equal(network.prompt_encoder["default"].embedding.weight, wanted)


@pytest.mark.parametrize("init", ["vocabulary", "labels"])
def test_embeddings_of_vocabulary_and_labels(init: str, make_recipe: Callable[..., Path]) -> None:
    method = {"name": "prompt", "num_virtual_tokens": 7, "init": init}
    made = make(make_recipe(method=method, data={"labels": ["yes", "no"]}))
    network = build(made)
    table = network.word_embeddings.weight
    found = network.prompt_encoder["default"].embedding.weight
    ids = [int((table == row).all(dim=1).nonzero()[0]) for row in found]
    if init == "labels":
        once = [n for word in ("yes", "no") for n in made.tokenizer(word)["input_ids"]]
        assert ids == (once * 7)[:7]
    else:
        assert len(set(ids)) > 3


def test_a_start_at_random_is_seeded_and_no_text(make_recipe: Callable[..., Path]) -> None:
    method = {"name": "ptuning_v2", "num_virtual_tokens": 4, "init": "random"}
    weights = []
    for seed in (1, 1, 2):
        network = build(make(make_recipe(method=method, run={"seed": seed})))
        weights.append(network.prompt_encoder["default"].embedding.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    zero = build(make(make_recipe(method={**method, "init": "zero"})))
    assert not zero.prompt_encoder["default"].embedding.weight.any()
    written = build(make(make_recipe(method={**method, "name": "prefix", "init": "zero"})))
    assert not any(layer[0].any() or layer[1].any() for layer in written.get_prompt(batch_size=1))


def test_labels_without_labels_are_refused(make_recipe: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError) as caught:
        make(make_recipe(method={"name": "prompt", "init": "labels"}))
    assert "data.labels is empty" in str(caught.value)


def test_the_report_names_the_nearest_tokens(bases: Callable[..., Path]) -> None:
    base = AutoModelForCausalLM.from_pretrained(bases("llama"))
    vocabulary = base.get_input_embeddings().weight.detach()
    from tests.tokenizers import make_tokenizer

    tokenizer = make_tokenizer("chatml")
    learned = vocabulary[[300, 301]] + 1e-3
    text = report(tokenizer, vocabulary, learned[None])
    for place, token in enumerate((300, 301)):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {place} |")]
        assert line.startswith(f"| {place} | `{tokenizer.decode([token])!r}` 1.00,")


def multitask(make_recipe: Callable[..., Path], tmp_path: Path, **more: Any) -> Path:
    other = [{"instruction": f"Count {n}.", "output": "foo bar foo"} for n in range(16)]
    write_rows(tmp_path / "other.jsonl", other)
    return make_recipe(
        method={"name": "multitask_prompt", "num_virtual_tokens": 5, **more},
        data={"train": ["train.jsonl", "other.jsonl"], "eval": 0.25},
        train={"epochs": 6, "learning_rate": 0.1},
    )


def test_a_multitask_prompt_learns_each_data_set_apart(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = multitask(make_recipe, tmp_path)
    made = make(recipe)
    assert {row.task for row in made.prepared.train} == {0, 1}
    assert {row.example.task for row in made.prepared.eval} == {0, 1}
    found = run_recipe(recipe)
    assert found["scores"]["after"]["loss"] < found["scores"]["before"]["loss"] - 0.5
    tokens = load_file(tmp_path / "run/virtual_tokens/virtual_tokens.safetensors")["embeddings"]
    assert tokens.shape == (2, 5, 64)
    assert not torch.allclose(tokens[0], tokens[1])
    text = (tmp_path / "run/virtual_tokens/nearest_tokens.md").read_text("utf-8")
    assert "## Data set 1" in text


def test_a_multitask_prompt_is_adapted_to_another_data_set(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """From one of its data sets, or from their mean."""
    run_recipe(multitask(make_recipe, tmp_path))
    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    prompts = saved["prefix_task_cols"] @ saved["prefix_task_rows"]
    for task, mean in ((1, prompts[1]), (None, None)):
        more = {"source": "run"} | ({"source_task": task} if task is not None else {})
        method = {"name": "multitask_prompt", "num_virtual_tokens": 5, **more}
        network = build(make(make_recipe(name="next.yaml", method=method)))
        encoder = network.prompt_encoder["default"]
        assert torch.equal(encoder.embedding.weight, saved["prompt_embeddings"])
        assert encoder.prefix_task_cols.shape[0] == 1
        own = (encoder.prefix_task_cols @ encoder.prefix_task_rows)[0]
        if mean is None:
            cols, lines = saved["prefix_task_cols"].mean(0), saved["prefix_task_rows"].mean(0)
            mean = cols @ lines
        torch.testing.assert_close(own, mean)


def test_a_source_that_does_not_fit_is_refused(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    run_recipe(make_recipe(method={"name": "lora"}, export={"formats": ["adapter"]}), "lora")
    run_recipe(multitask(make_recipe, tmp_path))
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"source": "nowhere"}, RecipeError, "no adapter in 'nowhere'"),
        ({"source": "run", "num_virtual_tokens": 4}, ModelError, "does not fit"),
        ({"source": "run", "source_task": 2}, ModelError, "has 2 data sets"),
        ({"source": "lora"}, ModelError, "not a multitask prompt"),
    ]
    for more, error, word in cases:
        method = {"name": "multitask_prompt", "num_virtual_tokens": 5, **more}
        recipe = make_recipe(name="next.yaml", method=method)
        with pytest.raises(error) as caught:
            build(make(recipe))
        assert word in str(caught.value)


def test_several_data_sets_need_held_out_rows_of_their_own(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    write_rows(tmp_path / "other.jsonl", rows(4, start=50))
    recipe = make_recipe(
        method={"name": "multitask_prompt"}, data={"train": ["train.jsonl", "other.jsonl"]}
    )
    with pytest.raises(RecipeError) as caught:
        make(recipe)
    assert "data.eval: a file" in str(caught.value)


def test_adalora_moves_its_ranks(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """The mean rank falls from `start_r` to `r`, and the artefact says how far in each module."""
    method = {"name": "adalora", "r": 2, "start_r": 4}
    recipe = make_recipe(method=method, train={"epochs": 10})
    run_recipe(recipe)
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text("utf-8"))
    kept = {name: sum(mask) for name, mask in config["rank_pattern"].items()}
    assert len(kept) == 14
    assert sum(kept.values()) == 2 * 14
    assert len(set(kept.values())) > 1
    shutil.rmtree(tmp_path / "run")


def test_adalora_keeps_its_ranks_in_a_run_of_one_step(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], in_process: None
) -> None:
    method = {"name": "adalora", "r": 2, "start_r": 4}
    train, export = {"max_steps": 1}, {"formats": ["adapter"]}
    done = run_recipe(make_recipe(method=method, train=train, export=export))
    assert [item["proof"] for item in done["artefacts"]] == ["equal"]


def test_adalora_ends_as_the_model_that_is_saved(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    in_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranks that were taken away are gone from the live model, too: bit for bit what a fresh
    process loads. A run that is resumed only to export writes the same adapter."""
    method = {"name": "adalora", "r": 2, "start_r": 5}
    recipe = make_recipe(method=method, train={"max_steps": 3}, export={"formats": ["adapter"]})
    found = run_recipe(recipe)
    assert [item["max_logit_difference"] for item in found["artefacts"]] == [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(
            run_end, "export_run", lambda *_: (_ for _ in ()).throw(ModelError("cut short"))
        )
        with pytest.raises(ModelError, match="cut short"):
            run_recipe(recipe, "again")
    run_recipe(recipe, "again", resume=True)
    first, second = (load_file(tmp_path / out / WEIGHTS) for out in ("run", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 512},
    ],
    ids=["grouped", "heads", "one-key-head", "window"],
)
def test_a_prefix_is_the_same_with_and_without_a_cache(
    shape: dict[str, Any],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """E09: what is written token by token from a cache has the logits of one pass over it all."""
    folder = tmp_path / "base"
    shutil.copytree(bases("llama"), folder)
    config = json.loads((folder / "config.json").read_text("utf-8")) | shape
    torch.manual_seed(0)
    kind = AutoConfig.for_model(**config)
    AutoModelForCausalLM.from_config(kind).save_pretrained(folder)
    method = {"name": "prefix", "num_virtual_tokens": 3}
    made = make(make_recipe(model={"base": str(folder)}, method=method))
    network = run_build.start(made, run_build.load(made)).model.eval()
    prompt = torch.tensor([made.prepared.train[0].input_ids[:9]])
    written = network.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    steps = torch.cat(written.logits)
    with torch.no_grad():
        once = network(input_ids=written.sequences, use_cache=False).logits[0, 8:-1]
        bare = network.get_base_model()(input_ids=written.sequences, use_cache=False).logits[
            0, 8:-1
        ]
    assert float((steps - once).abs().max()) < 1e-5
    assert float((steps - bare).abs().max()) > 1e-4
