"""`model.trust_remote_code`: a base with Python code of its own, from the plan to the chat."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.export.exporting import command
from tuner.errors import SafetyError
from tuner.model import base as bases_module
from tuner.model import own_code, tokenizer
from tuner.recipe.schema_model import ModelSection

MODEL = """
import os
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
with open(os.environ["RAN"], "a") as ran:
    ran.write(f"{os.getpid()} first\\n")
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
    def forward(self, *args, **kwargs):
        result = super().forward(*args, **kwargs)
        result.logits = result.logits * self.config.louder
        return result
"""
CONFIGURATION = """
from transformers import LlamaConfig
class OwnConfig(LlamaConfig):
    model_type = "own-llama"
    def __init__(self, louder=1.5, **kwargs):
        self.louder = louder
        super().__init__(**kwargs)
"""
QUICK: dict[str, Any] = {
    "train": {"max_steps": 2, "save_steps": 1},
    "eval": {"max_new_tokens": 2},
    "method": {"name": "lora", "r": 2},
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that says which process ran which code; transformers' copies of it are the test's."""
    from transformers import dynamic_module_utils

    file, cache = tmp_path / "ran", tmp_path / "modules"
    monkeypatch.setenv("RAN", str(file))
    monkeypatch.setenv("HF_MODULES_CACHE", str(cache))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return file


@pytest.fixture
def base(bases: Callable[..., Path], tmp_path: Path) -> Path:
    """The tiny Llama under a class of its own, whose logits are other ones."""
    folder = tmp_path / "own"
    shutil.copytree(bases("llama"), folder)
    (folder / "modeling_own.py").write_text(MODEL)
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def alone(here: Path, *words: str, answers: str = "") -> tuple[int, str, str]:
    """A command in a process of its own, with something to read on its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *words],
        cwd=here,
        input=answers,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_code_runs_when_it_is_asked_for_and_stays_the_same(
    base: Path, ran: Path, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Plan, training, proof, export, verify and chat; then the code changes: none goes on."""
    recipe = make_recipe(model={"base": str(base), "trust_remote_code": True}, **QUICK)
    run = tmp_path / "run"
    code, events = command("plan", "--recipe", recipe)
    assert code == 0
    warnings = str(events)
    assert "modeling_own.OwnForCausalLM" in warnings
    code, events = command("lora", "--recipe", recipe, "--output", run)
    assert code == 0, events[-1]
    record = json.loads((run / "run.json").read_text())
    assert [item["verified"] for item in record["artefacts"]] == [True, True]
    # The plan's process and the fresh one.
    assert len({line.split()[0] for line in ran.read_text().splitlines()}) == 2
    digest = own_code.digest(base)
    lock = yaml.safe_load((run / "recipe.lock.yaml").read_text())
    assert lock["model"]["code_sha256"] == digest
    assert record["plan"]["model"]["code_sha256"] == digest
    assert (run / "merged" / "modeling_own.py").read_text() == MODEL

    for words in (
        ("export", run, "--format", "adapter", "--format", "merged", "--output", tmp_path / "out"),
        ("verify", run / "merged"),
        ("lora", "--recipe", recipe, "--output", run, "--resume"),
    ):
        code, events = command(*words)
        assert code == 0, (words, events[-1])
    talk = ("chat", str(run), "--max-new-tokens", "2")
    code, _, err = alone(tmp_path, *talk, answers="Say number 3.\n")
    assert (code, "Traceback" in err) == (0, False), err

    (base / "modeling_own.py").write_text(MODEL.replace("first", "second"))
    before = ran.read_text()
    for words in (
        ("export", run, "--format", "merged", "--output", tmp_path / "other"),
        ("lora", "--recipe", recipe, "--output", run, "--resume"),
        ("chat", run),
    ):
        code, events = command(*words)
        error = events[-1]["error"]
        assert (code, error["kind"]) == (8, "safety"), (words, error)
        assert str(digest)[:12] in error["why"]
    assert ran.read_text() == before


@pytest.mark.slow
def test_several_processes_run_it(
    base: Path, ran: Path, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    own = {"base": str(base), "trust_remote_code": True}
    quick = {**QUICK, "eval": {"enabled": False, "samples": 0}, "run": {"devices": 2}}
    recipe = make_recipe(model=own, export={"formats": ["adapter"]}, **quick)
    code, _, err = alone(tmp_path, "lora", "--recipe", str(recipe), "--output", "run")
    assert code == 0, err[-3000:]
    # The parent's plan, two ranks, the proof.
    assert len({line.split()[0] for line in ran.read_text().splitlines()}) == 4


@pytest.mark.parametrize("words", [("plan",), ("lora", "--output", "x")])
def test_without_the_key_it_is_named_and_nothing_is_asked(
    words: tuple[str, ...],
    base: Path,
    ran: Path,
    make_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever would say yes on standard input is not asked."""
    answers = io.StringIO("y\ny\n")
    monkeypatch.setattr(sys, "stdin", answers)
    recipe = make_recipe(model={"base": str(base)}, **QUICK)
    with contextlib.chdir(base.parent):
        code, events = command(words[0], "--recipe", recipe, *words[1:])
    error = events[-1]["error"]
    assert (code, error["kind"]) == (8, "safety")
    assert "model.trust_remote_code: true" in error["fix"]
    assert "modeling_own.OwnForCausalLM (modeling_own.py)" in error["why"]
    assert answers.tell() == 0
    assert not ran.exists()


def test_an_artefact_does_not_speak_for_itself(
    base: Path, ran: Path, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """A whole model from elsewhere whose manifest allows its code, and code in another place."""
    from tuner.record import seal

    facts = {"trust_remote_code": True, "num_labels": 0, "head": "language", "qat": "none"}
    facts |= {"auto_class": "AutoModelForCausalLM", "dtype": "float32", "quantize": "none"}
    extra = {"facts": facts, "kind": "merged", "dtype": "float32"}
    extra["witness"] = {"rows": [{"input_ids": [1, 2, 3]}], "targets": [[2]], "logits": [[0.0]]}
    with seal.seal(tmp_path / "given" / "merged", extra=extra) as staging:
        shutil.copytree(base, staging, dirs_exist_ok=True)
    for words in (
        ("verify", tmp_path / "given" / "merged"),
        ("export", tmp_path / "given" / "merged", "--format", "int8", "--output", tmp_path / "o"),
    ):
        code, events = command(*words)
        assert (code, events[-1]["error"]["kind"]) == (8, "safety"), events[-1]
    config = json.loads((base / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = "some/where--modeling_own.OwnForCausalLM"
    (base / "config.json").write_text(json.dumps(config))
    recipe = make_recipe(model={"base": str(base), "trust_remote_code": True}, **QUICK)
    code, events = command("plan", "--recipe", recipe)
    assert (code, "another repository" in events[-1]["error"]["what"]) == (8, True)
    assert not ran.exists()


def test_an_adapters_tokenizer_runs_no_other_code_than_its_bases(
    base: Path, ran: Path, tmp_path: Path
) -> None:
    """That the base's code may run allows none that an adapter from elsewhere brings."""
    section = ModelSection(base=str(base), trust_remote_code=True)
    found = bases_module.resolve(section, tmp_path, lambda text: None)
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "tokens.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    code = "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n"
    code += "    import os\n    open(os.environ['RAN'], 'a').write('0 tokens')\n"
    (folder / "tokens.py").write_text(code)
    with pytest.raises(SafetyError, match="tokenizer of"):
        tokenizer.tokenizer_at(found, folder)
    assert not ran.exists()
    shutil.copyfile(folder / "tokens.py", base / "tokens.py")
    assert type(tokenizer.tokenizer_at(found, folder)).__name__ == "Own"
    assert ran.exists()
