"""What a command line may name: runs, artefacts, adapters, bases; and what is refused (E12)."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.inference.conversation import Make, alone, chat, opened, spoiled, until_eos, written
from tests.tokenizers import make_tokenizer
from tuner.console.console import Console
from tuner.data.tokens.conversation import Prompts
from tuner.errors import IntegrityError
from tuner.export import origin
from tuner.inference import open_model
from tuner.machine import hardware


def test_a_run_is_found_by_its_name(finished: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished("lora"))
    with contextlib.chdir(tmp_path):
        done = chat("mine", "--json")
    assert done.returncode == 0
    assert done.events[0]["adapter"] == "lora"


def test_a_run_that_trained_the_whole_model(
    finished: Callable[[str], Path], bases: Callable[..., Path]
) -> None:
    folder = finished("full")
    done = chat(folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.events[0]["adapter"] is None
    found = opened(folder / "merged")
    ids = Prompts(found.active.tokenizer, found.stops).ids(
        [{"role": "user", "content": "Say number 3."}]
    )
    expected = until_eos(found.active.tokenizer, written(alone(folder / "merged", None), ids)[:6])
    assert done.events[0]["text"] == found.active.tokenizer.decode(expected).strip()
    assert done.events[0]["text"] != chat("--base", bases("llama"), "--json").events[0]["text"]
    refused = chat(folder, "--base", bases("llama"))
    assert refused.returncode == 2
    assert "whole model" in refused.stderr


def test_an_adapter_of_another_base_is_refused(
    finished: Callable[[str], Path], bases: Callable[..., Path]
) -> None:
    """E12"""
    folder, other = finished("lora"), bases("llama", seed=1)
    own = json.loads((folder / "adapter/MANIFEST.json").read_text())["extra"]["base_fingerprint"]
    theirs = opened(other).fingerprint
    for arguments in ((folder, "--base", other), ("--base", other, "--adapter", folder)):
        done = chat(*arguments)
        assert done.returncode == 4
        assert own[:12] in done.stderr
        assert theirs[:12] in done.stderr
        assert "--force-base" in done.stderr
        assert done.stdout == ""
        forced = chat(*arguments, "--force-base", "--json")
        assert forced.returncode == 0
        assert [event["event"] for event in forced.events] == ["warning", "answer"]
        assert own[:12] in forced.events[0]["text"]
    same = chat("--base", bases("llama"), "--adapter", folder / "adapter", "--json")
    assert same.events == chat(folder, "--json").events


def test_artefacts_of_a_run_are_taken_as_the_run(
    finished: Callable[[str], Path], tmp_path: Path
) -> None:
    """The adapter with the run's base, the merged model; an adapter alone needs a base."""
    tuned = chat(finished("lora"), "--json")
    assert chat(finished("lora") / "adapter", "--json").events == tuned.events
    merged = chat(finished("full") / "merged", "--json")
    assert merged.events == chat(finished("full"), "--json").events != tuned.events
    shutil.copytree(finished("lora") / "adapter", tmp_path / "moved")
    alone = chat(tmp_path / "moved")
    assert alone.returncode == 2
    assert "--base BASE --adapter" in alone.stderr
    whole = chat(finished("full") / "merged", "--base", finished("full") / "merged")
    assert whole.returncode == 2
    assert "leave out --base" in whole.stderr


def test_an_adapter_is_called_as_the_user_says(bases: Callable[..., Path], adapter: Make) -> None:
    named = ("--base", bases("llama"), "--adapter", f"mine={adapter('lora')}", "--json")
    assert chat(*named).events[-1]["adapter"] == "mine"


def test_names_on_a_server(
    finished: Callable[[str], Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    """A run is called as its folder; each adapter reads turns by its own run's chat template."""
    from tuner.inference.serve.models import name_all

    def voices(*names: object) -> dict[str, Any]:
        first, *rest = map(str, names)
        source = open_model.model_to_open(first, None, rest, hardware.detect(), "serve")
        model = open_model.load(source, Console(quiet=True))
        return name_all(model, source.name)

    assert list(voices(finished("full"))) == ["full"]
    other = tmp_path / "other"
    shutil.copytree(finished("lora"), other)
    (other / "adapter/MANIFEST.json").unlink()
    template = other / "adapter/chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|>the "))
    made = voices(finished("lora"), other)
    assert list(made) == ["lora", "other", "llama-chatml-0"]
    turns = [{"role": "user", "content": "x"}]
    assert made["other"].prompts.ids(turns) != made["lora"].prompts.ids(turns)
    assert made["llama-chatml-0"].prompts.ids(turns) == made["lora"].prompts.ids(turns)


def test_an_adapter_without_a_manifest_is_taken_with_a_warning(
    bases: Callable[..., Path], adapter: Make
) -> None:
    done = chat("--base", bases("llama"), "--adapter", adapter("lora"))
    assert done.returncode == 0
    assert "not checked" in done.stderr


def test_two_adapters_of_one_name(bases: Callable[..., Path], adapter: Make) -> None:
    folder = adapter("lora")
    typed = f"/adapter {folder.name}-2\n/adapters\n"
    two = ["--base", bases("llama"), "--adapter", folder, "--adapter", folder, "--lines", "--json"]
    (listed,) = [event for event in chat(*two, typed=typed).events if event["event"] == "adapters"]
    assert listed["names"] == [folder.name, f"{folder.name}-2"]
    assert listed["active"] == f"{folder.name}-2"


def configured(source: Path, folder: Path, **values: Any) -> Path:
    shutil.copytree(source, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def pickled(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    torch.save(tensors, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return folder


def resized(tensors: dict[str, Any]) -> None:
    name = sorted(tensors)[0]
    tensors[name] = tensors[name][:, :-1].contiguous()


REFUSED: dict[str, tuple[int, str, Callable[[Path, Path], Path]]] = {
    "a tensor is missing": (
        4,
        "tensors missing: 1, without a module: 0",
        lambda old, new: spoiled(old, new, lambda tensors: tensors.popitem()),
    ),
    "a tensor matches nothing": (
        4,
        "tensors missing: 0, without a module: 1",
        lambda old, new: spoiled(old, new, lambda t: t.update({"x.weight": torch.ones(2)})),
    ),
    "a tensor of another shape": (
        4,
        "cannot be loaded",
        lambda old, new: spoiled(old, new, resized),
    ),
    "a classifier": (
        4,
        "does not generate text",
        lambda old, new: configured(old, new, task_type="SEQ_CLS"),
    ),
    "an encoder-decoder's": (
        4,
        "another kind of model",
        lambda old, new: configured(old, new, task_type="SEQ_2_SEQ_LM"),
    ),
    "a moved start": (
        4,
        "init_lora_weights pissa",
        lambda old, new: configured(old, new, init_lora_weights="pissa"),
    ),
    "biases of the base": (4, "bias all", lambda old, new: configured(old, new, bias="all")),
    "an unknown type": (4, "cannot be read", lambda old, new: configured(old, new, peft_type="NO")),
    "a pickle": (8, "pickle", pickled),
    "nothing": (4, "there is no adapter_config.json", lambda old, new: new),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_fitting_adapter_is_refused(
    case: str, bases: Callable[..., Path], adapter: Make, tmp_path: Path
) -> None:
    code, words, make = REFUSED[case]
    folder = make(adapter("lora"), tmp_path / "spoiled")
    done = chat("--base", bases("llama"), "--adapter", folder)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "fix:" in done.stderr
    assert done.stdout == ""


def test_a_sealed_adapter_that_was_altered(
    finished: Callable[[str], Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    folder = spoiled(finished("lora") / "adapter", tmp_path / "altered", lambda tensors: None)
    (folder / "adapter_config.json").write_text(
        (folder / "adapter_config.json").read_text().replace('"r": 16', '"r":  16')
    )
    done = chat("--base", bases("llama"), "--adapter", folder)
    assert done.returncode == 6
    assert "adapter_config.json" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "neither a run nor --base"),
        (("missing-run",), 2, "there is no run missing-run"),
        (("--base", "BERT"), 4, "an encoder cannot generate"),
        (("--base", "./nowhere"), 4, "was not found"),
        (("--base", "LLAMA", "--temperature", "nan"), 2, "temperature"),
        (("--base", "LLAMA", "--temperature", "-1"), 2, "temperature"),
    ],
)
def test_what_cannot_be_talked_to(
    arguments: tuple[str, ...], code: int, words: str, bases: Callable[..., Path]
) -> None:
    named = {"BERT": str(bases("bert")), "LLAMA": str(bases("llama"))}
    done = chat(*(named.get(word, word) for word in arguments))
    assert done.returncode == code, done.stderr
    assert words in done.stderr


def test_a_base_that_tells_classes(bases: Callable[..., Path], tmp_path: Path) -> None:
    network = transformers.AutoModelForSequenceClassification.from_pretrained(bases("llama"))
    network.save_pretrained(tmp_path)
    make_tokenizer("chatml").save_pretrained(tmp_path)
    done = chat("--base", tmp_path, "--json")
    warning, answer = done.events
    assert "not recorded how its prompts" in warning["text"]
    assert answer["probabilities"].keys() == {"LABEL_0", "LABEL_1"}
    network.config.id2label = {0: "reward"}
    network.config.save_pretrained(tmp_path)
    done = chat("--base", tmp_path)
    assert done.returncode == 4
    assert "it is a classifier" in done.stderr


def test_a_run_without_a_model(finished: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copy(finished("lora") / "run.json", tmp_path / "run.json")
    done = chat(tmp_path)
    assert done.returncode == 4
    assert "has neither adapter/ nor merged/" in done.stderr


def test_an_adapter_in_a_run_is_the_one_that_is_named(tmp_path: Path) -> None:
    """Not the run's own, if it is another one next to it."""
    folder = tmp_path / "run"
    for name in ("adapter", "adapter-2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text("{}")
    record = {"format": 1, "tuner": "0", "status": "done", "plan": {}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "recipe.lock.yaml").write_text("data: {train: a.jsonl}\nmodel: {base: a/b}\n")
    for named, expected in ((folder, "adapter"), (folder / "adapter-2", "adapter-2")):
        found = open_model.model_to_open(str(named), None, (), hardware.detect(), "chat")
        assert found.adapters == [("run", folder / expected)]
        assert found.section.base == "a/b"


def test_chat_and_export_take_the_base_of_a_run_from_its_recipe(
    finished: Callable[[str], Path], tmp_path: Path
) -> None:
    """One way for both, wherever the run has been moved to; without the recipe, neither goes on."""
    folder = tmp_path / "moved"
    shutil.copytree(finished("lora"), folder)
    asked = open_model.model_to_open(str(folder), None, (), hardware.detect(), "chat")
    exported = origin.find(str(folder))
    assert exported.section is not None
    assert (asked.section.base, asked.folder) == (exported.section.base, exported.start)
    (folder / "recipe.lock.yaml").write_text("data: {}\n")
    for find in (
        lambda: open_model.model_to_open(str(folder), None, (), hardware.detect(), "chat"),
        lambda: origin.find(str(folder)),
    ):
        with pytest.raises(IntegrityError, match="cannot be read"):
            find()


@pytest.mark.parametrize(
    ("capability", "trained", "expected"),
    [
        ((9, 0), None, "bfloat16"),
        ((9, 0), "float16", "float16"),
        ((7, 5), None, "float16"),
        ((7, 5), "float32", "float32"),
        ((7, 5), "bfloat16", "float16"),
    ],
)
def test_the_type_on_a_gpu(
    capability: tuple[int, int],
    trained: str | None,
    expected: str,
    finished: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Half precision: that of the run if this GPU computes it, else bfloat16 or float16."""
    gpu = hardware.Gpu("one", 16 << 30, capability)
    here = hardware.Machine(cpu_count=2, memory_bytes=1 << 34, gpus=(gpu,))
    run = tmp_path / "run"
    shutil.copytree(finished("lora"), run)
    record = json.loads((run / "run.json").read_text("utf-8"))
    values = record["plan"]["values"]
    values["run.device"]["value"] = "cuda" if trained else "cpu"
    values["model.dtype"]["value"] = trained or "float32"
    (run / "run.json").write_text(json.dumps(record), "utf-8")
    found = open_model.model_to_open(str(run), None, [], here, "chat")
    assert (found.device, found.section.dtype) == ("cuda", expected)
