"""`model.new_tokens`: E02, E03: tokens that a recipe adds, from the first row to every artefact.

The independent measure: plain transformers and peft, which resize the base themselves.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import rows
from tests.export.exporting import HAS_LLAMA, command, exported
from tuner.console.console import Console
from tuner.data.tokens.conversation import Prompts
from tuner.errors import IntegrityError, ModelError, RecipeError
from tuner.inference import load
from tuner.inference.chat import Chat
from tuner.inference.serve.models import name_all
from tuner.machine import hardware
from tuner.methods import METHODS, targets
from tuner.model import embedding_rows
from tuner.model import tokenizer as vocabulary
from tuner.plan import make, plan
from tuner.recipe import load as recipe_load
from tuner.recipe.schema_model import ModelSection
from tuner.run import build

TOKENS = ["<law>", "<case>"]
IDS = [512, 513]
KINDS = ("llama", "llama-tied", "gpt2", "qwen2")
QUICK: dict[str, Any] = {
    "model": {"new_tokens": TOKENS},
    "train": {"epochs": 2, "learning_rate": 0.02},
    "eval": {"samples": 0, "enabled": False},
}
# Rows with both tokens, one of them next to a word.
PROBES = [[9, 512, 30, 41, 513, 7], [513, 60, 61, 512, 512, 90]]


def marked(count: int = 16, start: int = 0, tokens: list[str] = TOKENS) -> list[dict[str, str]]:
    """Rows whose answers begin and end with new tokens."""
    first, last = (tokens[0], tokens[-1]) if tokens else ("", "")
    return [{**row, "output": f"{first}{row['output']} {last}"} for row in rows(count, start=start)]


@pytest.fixture
def trained(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> Callable[..., Path]:
    """The folder of a short run that adds `TOKENS` to a tiny base."""

    def train(kind: str = "llama", out: str = "run", **sections: Any) -> Path:
        settings = {**QUICK, **sections}
        settings["model"] = {**QUICK["model"], **sections.get("model", {})}
        tokens = settings["model"]["new_tokens"]
        run_recipe(make_recipe(kind, data_rows=marked(tokens=tokens), **settings), out)
        return tmp_path / out

    return train


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    network.eval()
    return torch.cat([network(input_ids=torch.tensor([row])).logits[0] for row in PROBES]).float()


def plain_base(folder: Path, rows: int) -> Any:
    """A base as a user of peft would prepare it."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.resize_token_embeddings(rows, mean_resizing=False)
    return network


def matrices(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "model.safetensors")
    return {name: found[name] for name in found if targets.ends(f"{name[:-7]}", END)}


END = vocabulary.MATRICES


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_go_round(
    kind: str, trained: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """E02: rows, ids and tokenizer are those of training; the new rows are bit for bit the
    trained."""
    run, base = trained(kind), bases(kind)
    record = json.loads((run / "run.json").read_text())
    assert record["unmoved_tensors"] == []
    assert record["plan"]["vocabulary"] == {
        "<law>": 512,
        "<case>": 513,
        "rows_of_the_base": 512,
        "rows": 514,
    }
    stored = load_file(run / "adapter/adapter_model.safetensors")
    assert sum(t.numel() for t in stored.values()) == record["plan"]["parameters"]["trainable"]
    deltas = {name: t for name, t in stored.items() if "token_adapter" in name}
    assert len(deltas) == (2 if kind in ("llama", "qwen2") else 1)

    tokenizers = [AutoTokenizer.from_pretrained(run / name) for name in ("adapter", "merged")]
    before = AutoTokenizer.from_pretrained(base).get_vocab()
    for tokenizer in tokenizers:
        assert tokenizer.get_vocab() == {**before, "<law>": 512, "<case>": 513}
        assert tokenizer("a<law>b")["input_ids"][1] == 512
        assert tokenizer.decode(IDS, skip_special_tokens=True).split() == TOKENS or (
            tokenizer.decode(IDS, skip_special_tokens=True) == "".join(TOKENS)
        )

    config = json.loads((run / "merged/config.json").read_text())
    tied = kind in ("llama-tied", "gpt2")
    assert config["vocab_size"] == 514
    assert config.get("tie_word_embeddings", kind == "gpt2") == tied
    old, new = matrices(base), matrices(run / "merged")
    assert old.keys() == new.keys()
    for name, matrix in new.items():
        assert len(matrix) == 514
        assert torch.equal(matrix[:512], old[name])
        short = name.removesuffix(".weight")
        (delta,) = [t for key, t in deltas.items() if f".{short}." in key] or deltas.values()
        assert torch.equal(matrix[512:], delta)
        assert not torch.allclose(delta, old[name].mean(0), atol=1e-4)

    tuned = logits(PeftModel.from_pretrained(plain_base(base, 514), run / "adapter"))
    assert tuned.shape[-1] == 514
    merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)
    assert float((logits(merged) - tuned).abs().max()) < 1e-4
    assert float((tuned - logits(plain_base(base, 514))).abs().max()) > 0.1


@pytest.mark.usefixtures("in_process")
def test_padding_rows_are_used_before_any_is_added(
    trained: Callable[..., Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    """E03: a base of 520 rows and 512 tokens: the new ones get rows 512 and 513, the shape
    stays."""
    padded = tmp_path / "padded"
    shutil.copytree(bases("llama-tied"), padded)
    plain_base(padded, 520).save_pretrained(padded)
    run = trained("llama-tied", model={"base": str(padded)})
    assert json.loads((run / "merged/config.json").read_text())["vocab_size"] == 520
    (old,), (new,) = matrices(padded).values(), matrices(run / "merged").values()
    assert new.shape == old.shape
    kept = [row for row in range(520) if row not in IDS]
    assert torch.equal(new[kept], old[kept])
    assert not torch.allclose(new[IDS], old[IDS], atol=1e-3)
    stored = json.loads((run / "adapter/adapter_config.json").read_text())
    assert stored["trainable_token_indices"] == {"model.embed_tokens": IDS}


@pytest.mark.llama
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_every_format_has_the_new_rows(kind: str, trained: Callable[..., Path]) -> None:
    """E02"""
    run = trained(kind)
    formats = ["int8", "nf4", "gguf"]
    for name, report in exported(run, *formats).items():
        assert report["kl"] < report["limit"], name
    for name in ("adapter", "merged", *formats):
        assert command("verify", run / name)[0] == 0, name
    code, events = command("export", run, "--format", "gguf-adapter")
    assert code == 4 or not HAS_LLAMA
    code, events = command("export", run, "--check", "vllm")
    assert code == 4
    assert "trainable_token_indices" in json.dumps(events[-1])
    found = command("inspect", run)
    assert found[0] == 0


@pytest.mark.slow
def test_the_whole_way_in_processes_of_their_own(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    """E02: verified by fresh processes; a question and an answer through a pipe."""
    run = trained("llama-tied")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tuner",
            "chat",
            str(run),
            "--max-new-tokens",
            "4",
            "--json",
            "--lines",
        ],
        input="<law> month\n/base\n<law> month\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["adapter"] for item in answers] == ["run", None]


@pytest.mark.usefixtures("in_process")
def test_adapters_with_other_tokens_take_turns_on_one_base(
    trained: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """E02: two runs gave the same id to different tokens; a third gave none."""
    one = trained("llama", "one")
    two = trained("llama", "two", model={"new_tokens": ["<a>", "<b>", "<c>"]})
    three = trained("llama", "three", model={"new_tokens": []})
    base = bases("llama")
    found = load.open_base(
        ModelSection(base=str(base), dtype="float32"),
        Path(),
        "cpu",
        tokenizer_folder=one / "adapter",
    )
    for run in (one, two, three):
        load.attach(found, run / "adapter", run.name)
    untouched = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = {
        "one": PeftModel.from_pretrained(plain_base(base, 514), one / "adapter"),
        "two": PeftModel.from_pretrained(plain_base(base, 515), two / "adapter"),
        "three": PeftModel.from_pretrained(plain_base(base, 512), three / "adapter"),
        None: untouched,
    }
    prompt = torch.tensor([[9, 30, 41, 7]])
    for name in ("one", "two", None, "three", "one", None):
        found.use(name)
        with torch.no_grad():
            ours = found.active.network.eval()(input_ids=prompt).logits
            theirs = expected[name].eval()(input_ids=prompt).logits
        assert torch.allclose(ours, theirs, atol=1e-5), name
        assert found.active.network.config.vocab_size == ours.shape[-1] == found.active.rows
    assert found.adapters["two"].tokenizer.get_vocab()["<c>"] == 514
    assert "<law>" not in found.bare.tokenizer.get_vocab()
    voices = name_all(found)
    assert voices["two"].variant.rows == 515
    assert voices[found.base.name].variant.rows == 512

    talk = Chat(found, Console(quiet=True), 4)
    for name in ("one", "two", None):
        found.use(name)
        text = talk.say("<law> and <c>")
        turn = [{"role": "user", "content": "<law> and <c>"}]
        ids = Prompts(found.active.tokenizer, found.stops).ids(turn)
        assert max(ids) < found.active.rows
        assert (512 in ids) == (name == "one")
        assert (514 in ids) == (name == "two")
        assert text == found.answer(ids, 4).text
        talk.obey("/reset")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.new_tokens])
def test_each_method_that_says_so_trains_them(
    name: str, trained: Callable[..., Path], bases: Callable[..., Path]
) -> None:
    """E02"""
    own = {"epochs": 2, "learning_rate": "auto"}
    rate = {"train": own} if name == "staged" else {}
    run = trained("llama-tied", method={"name": name}, **rate)
    (matrix,) = matrices(run / "merged").values()
    (old,) = matrices(bases("llama-tied")).values()
    assert matrix.shape == (514, 64)
    start = old.mean(0)
    assert not torch.allclose(matrix[512:], start.expand(2, -1), atol=1e-4)
    if name == "full":
        exported(run, "int8")


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.new_tokens])
def test_each_other_method_refuses_them(name: str, make_recipe: Callable[..., Path]) -> None:
    needed = {"trainable_tokens": {"tokens": ["."]}}.get(name, {})
    recipe = make_recipe(method={"name": name, **needed}, model={"new_tokens": TOKENS})
    with pytest.raises(RecipeError) as caught:
        planned(recipe)
    assert f"method.name: {name}" in str(caught.value.problems)
    assert "rslora" in str(caught.value.problems)


def planned(recipe: Path) -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="sft")
    return make.make(loaded, hardware.detect(), output=recipe.parent / "run")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["<|im_end|>"], "already"),
        (["tenant"], "already"),
        (["<law>", "<law>"], "twice"),
        ([" <law>"], "space"),
    ],
)
def test_tokens_that_cannot_be_added(
    tokens: list[str], said: str, make_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(make_recipe(model={"new_tokens": tokens}))
    assert said in caught.value.why
    assert tokens[0] in caught.value.what


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"method": {"init": "pissa"}}, "method.init: pissa"),
        ({"method": {"modules_to_save": ["embed_tokens"]}}, "modules_to_save: embed_tokens"),
        ({"train": {"qat": "int8"}}, "train.qat: int8"),
    ],
)
def test_what_new_tokens_do_not_go_with(
    sections: dict[str, Any], said: str, make_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(make_recipe(model={"new_tokens": TOKENS}, **sections))
    assert said in str(caught.value.problems)


def test_other_families_refuse_them(make_recipe: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match="encoder-decoder"):
        planned(make_recipe("t5", model={"new_tokens": TOKENS}))


def test_other_tasks_refuse_them(make_recipe: Callable[..., Path]) -> None:
    task = {"model": {"new_tokens": TOKENS, "task": "classification"}, "data": {"labels": ["a"]}}
    with pytest.raises(RecipeError, match="new head"):
        planned(make_recipe("llama", **task))
    loaded = recipe_load.load(make_recipe(model={"new_tokens": TOKENS}), verb="rlhf")
    with pytest.raises(RecipeError) as caught:
        make.make(loaded, hardware.detect(), output=Path("none"))
    assert "model.new_tokens and tuner rlhf" in str(caught.value.problems)


@pytest.mark.usefixtures("in_process")
def test_a_policy_that_has_them_is_refused_with_the_way_round(
    trained: Callable[..., Path], make_recipe: Callable[..., Path]
) -> None:
    run = trained(export={"formats": ["adapter"]})
    for policy in (run, run / "adapter"):
        recipe = make_recipe(rlhf={"policy": str(policy)}, name="p.yaml")
        loaded = recipe_load.load(recipe, verb="rlhf")
        with pytest.raises(RecipeError, match="tokens that its base does not have") as caught:
            make.make(loaded, hardware.detect(), output=Path("none"))
        assert "merged" in caught.value.fix


def test_an_id_that_has_an_owner_is_not_given_away() -> None:
    """A tokenizer whose ids have gaps counts its tokens, and would begin in the midst of them."""

    class Gaps:
        added: tuple[Any, ...] = ()

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 2}

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [0, 2]}

        def add_tokens(self, tokens: list[Any]) -> None:
            self.added = tuple(tokens)

        def convert_tokens_to_ids(self, token: str) -> int:
            return 2

    with pytest.raises(ModelError, match="cannot be added"):
        vocabulary.add(Gaps(), ["<law>"])


def test_a_token_that_no_row_has_is_named(make_recipe: Callable[..., Path]) -> None:
    made = planned(make_recipe(data_rows=marked(), model={"new_tokens": [*TOKENS, "<typo>"]}))
    assert [text for text in made.warnings if "<typo> is in no training row" in text]
    assert planned(make_recipe(data_rows=marked(), model={"new_tokens": TOKENS})).warnings == []


def test_the_preview_shows_them_as_one_piece(
    make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from tuner.cli.data import preview

    recipe = make_recipe(data_rows=marked(), model={"new_tokens": TOKENS})
    preview(str(recipe), [], 2, Console())
    shown = capsys.readouterr().out
    assert shown.count("new: <law> <case>") == 2
    assert "⟦<law>" in shown


@pytest.mark.usefixtures("in_process")
def test_a_resumed_run_has_the_same_rows(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = {**QUICK, "train": {**QUICK["train"], "save_steps": 3}}
    sections["export"] = {"formats": ["adapter"]}
    recipe = make_recipe("llama-tied", data_rows=marked(), **sections)
    run_recipe(recipe, "reference")

    # Eight steps; what follows the sixth is lost.
    def die(*_: Any, **__: Any) -> Any:
        raise IntegrityError("killed", "after training", "resume")

    with monkeypatch.context() as patched:
        patched.setattr("tuner.export.run_end.export_run", die)
        with pytest.raises(IntegrityError, match="killed"):
            run_recipe(recipe, "run")
    for path in (tmp_path / "run/checkpoints").glob("step-8"):
        shutil.rmtree(path)
    run_recipe(recipe, "run", resume=True)
    first, second = (
        load_file(tmp_path / name / "adapter/adapter_model.safetensors")
        for name in ("reference", "run")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("in_process")
def test_a_quantized_base_gets_the_rows_too(trained: Callable[..., Path]) -> None:
    """E04"""
    run = trained("llama", model={"quantize": "nf4"}, export={"formats": ["adapter"]})
    exported(run, "merged")
    assert json.loads((run / "merged/config.json").read_text())["vocab_size"] == 514


@pytest.mark.usefixtures("in_process")
def test_combining_adapters_that_have_them_is_refused(trained: Callable[..., Path]) -> None:
    run = trained(export={"formats": ["adapter"]})
    code, events = command(
        "export", run, "--adapters", run, "--format", "merged", "--output", run / "both"
    )
    assert code == 4
    assert "not a plain LoRA" in json.dumps(events[-1])


def test_the_parameter_count_is_exact(make_recipe: Callable[..., Path]) -> None:
    """By formula, and on a model without weights where a formula does not do."""
    for kind, method in (
        ("llama", {"name": "lora"}),
        ("gpt2", {"name": "dora"}),
        ("llama", {"name": "lora", "modules_to_save": ["norm"]}),
        ("gemma", {"name": "lora"}),
        ("llama", {"name": "full"}),
    ):
        made = planned(
            make_recipe(kind, data_rows=marked(), method=method, model={"new_tokens": TOKENS})
        )
        network = build.start(made, build.load(made)).model
        live = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert live == made.facts["parameters"]["trainable"], (kind, method)


def test_the_start_is_the_mean_and_the_old_modules_stay(bases: Callable[..., Path]) -> None:
    for kind in KINDS:
        network = AutoModelForCausalLM.from_pretrained(bases(kind), dtype=torch.float32)
        embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
        before = embedding.weight.clone()
        embedding_rows.grow(network, 514)
        assert embedding.weight.shape == head.weight.shape == (512, 64)
        new, top = network.get_input_embeddings(), network.get_output_embeddings()
        assert torch.equal(new.weight[:512], before)
        assert torch.allclose(new.weight[512:], before.mean(0).expand(2, -1))
        assert (top.weight is new.weight) == (head.weight is embedding.weight)
        assert network(input_ids=torch.tensor([[513]])).logits.shape[-1] == 514
        embedding_rows.grow(network, 100)
        assert network.config.vocab_size == 514


def test_every_adapter_goes_through_one_door() -> None:
    """No file puts a saved adapter on a base but `embedding_rows.load_adapter_onto`, which gives it
    its rows; the cards tell users without tuner how."""
    root = Path(embedding_rows.__file__).parents[1]
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix in (".py", ".jinja")
        and re.search(r"PeftModel\w*\.from_pretrained\(", path.read_text("utf-8"))
    }
    cards = {"export/card.md.jinja", "export/model_card.md.jinja"}
    assert found == {"model/embedding_rows.py", *cards}
