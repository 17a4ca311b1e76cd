"""`export.formats` of a recipe: every format of `tuner export` at the end of a run.

The independent measure: plain transformers opens what the run left, and its logits are compared
with those of plain peft on the untouched base.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from tests.export.exporting import ROWS, command, logits, names, tuned
from tests.run.test_rehearsal import only, tuner
from tests.tasks.preferences import pairs
from tuner.errors import IntegrityError, ModelError, RecipeError, ResourceError, TunerError
from tuner.export import convert
from tuner.export.proof import measure
from tuner.machine import converter, hardware
from tuner.model.weights import without_cpu_packing
from tuner.plan import make, plan
from tuner.recipe import dump
from tuner.recipe import load as recipe_load
from tuner.recipe.export import ExportSection
from tuner.recipe.formats import FORMATS, known
from tuner.recipe.json_schema import json_schema
from tuner.run import build

QUICK = {
    "train": {"epochs": 2, "learning_rate": 0.02},
    "eval": {"samples": 0, "enabled": False},
}
Train = Callable[..., dict[str, Any]]


def set_(formats: str, *more: str) -> tuple[str, ...]:
    return (f"export.formats={formats}", *more)


@pytest.fixture
def run_set(tmp_path: Path) -> Train:
    """Run a recipe with `--set` flags in this process and return the record."""
    from tuner.console.console import Console
    from tuner.run import spine

    def go(recipe: Path, *overrides: str, resume: bool = False) -> Any:
        loaded = recipe_load.load(recipe, overrides, "sft")
        made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
        return spine.run(made, resume=resume, console=Console(quiet=True))

    return go


def planned(recipe: Path, *overrides: str, verb: str = "sft") -> plan.Plan:
    loaded = recipe_load.load(recipe, overrides, verb)
    return make.make(loaded, hardware.detect(), output=recipe.parent / "run")


@pytest.mark.usefixtures("in_process")
def test_one_run_leaves_every_format(
    make_recipe: Callable[..., Path],
    run_set: Train,
    bases: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Each is near the tuned model, known to run.json, export.json, report and `tuner verify`."""
    asked = "[adapter, merged, {gguf: q8_0}, {nf4: {max_kl: 0.4}}, int8-torchao, int4]"
    record = run_set(make_recipe("llama", **QUICK), *set_(asked))
    run, kinds = tmp_path / "run", ["adapter", "merged", "gguf-q8_0", "nf4", "int8-torchao", "int4"]
    artefacts = {item["kind"]: item for item in record["artefacts"]}
    assert [*artefacts] == kinds
    assert record["plan"]["values"]["export.formats"]["value"][2:4] == [
        "gguf-q8_0",
        {"nf4": {"max_kl": 0.4}},
    ]
    wanted = logits(tuned(run, bases("llama")), ROWS)
    listed = json.loads((run / "export.json").read_text())["artefacts"]
    assert [item["kind"] for item in listed] == kinds[2:]
    page = (run / "report.html").read_text()
    for kind in kinds:
        item, folder = artefacts[kind], run / kind
        assert item["verified"] is True
        assert item["bytes"] == sum(
            file.stat().st_size for file in folder.iterdir() if file.name != "MANIFEST.json"
        )
        if kind in kinds[2:]:
            assert item["kept"] > 0.9, kind
            assert item["kl"] <= item["limit"]
            assert "of what training changed" in page
            (weights,) = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
            manifest = json.loads((folder / "MANIFEST.json").read_text())
            assert item["sha256"] == manifest["files"][weights.name]["sha256"]
        if kind in ("merged", "nf4", "int4"):
            found = logits(without_cpu_packing(AutoModelForCausalLM.from_pretrained(folder)), ROWS)
            assert measure.divergence(wanted, found) < 10 * item.get("kl", 0.0) + 1e-6
        assert command("verify", folder)[0] == 0
    assert artefacts["nf4"]["limit"] == 0.4
    for kind in ("nf4", "int8-torchao", "int4"):
        card = (run / kind / "README.md").read_text()
        assert f", fine-tuned, in {kind} (" in card
        assert "- steps: 8, 4 rows per step" in card
    assert "GPTQ on 16 training rows" in artefacts["int4"].get("int4", listed[-1]["int4"])
    assert not [name for name in names(run) if ".staging" in name or name.startswith("scratch")]


@pytest.mark.usefixtures("in_process")
def test_the_live_model_is_gone_before_other_formats_are_made(
    make_recipe: Callable[..., Path], run_set: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory need not hold what was trained, what is converted and what is proven at once."""
    parameters: list[Any] = []
    alive: list[int] = []
    start, export = build.start, convert.export

    def started(*given: Any) -> Any:
        trained = start(*given)
        parameters.extend(weakref.ref(each) for each in trained.model.parameters())
        return trained

    def exported(*given: Any) -> Any:
        gc.collect()
        alive.append(sum(each() is not None for each in parameters))
        return export(*given)

    monkeypatch.setattr(build, "start", started)
    monkeypatch.setattr(convert, "export", exported)
    run_set(make_recipe("llama", **QUICK), *set_("[adapter, merged, int8]"))
    assert len(parameters) > 20
    assert alive == [0]


@pytest.mark.usefixtures("in_process")
def test_a_refused_format_keeps_the_others_and_the_fix_works(
    make_recipe: Callable[..., Path], run_set: Train, tmp_path: Path
) -> None:
    """Exit 6 with the format's name; what was proven, before it and after it, stays."""
    recipe, run = make_recipe("llama", **QUICK), tmp_path / "run"
    asked = set_("[adapter, int8-torchao, {nf4: {max_kl: 1e-7}}, int8]")
    with pytest.raises(IntegrityError, match="nf4") as caught:
        run_set(recipe, *asked)
    assert caught.value.exit_code == 6
    kept = {"adapter", "int8-torchao", "int8"}
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"checkpoints", *kept}
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    before = {name: (run / name / "MANIFEST.json").stat().st_mtime_ns for name in kept}
    flag = "export.formats=[adapter,int8-torchao,int8]"
    assert f"--resume --set {flag} ends the run" in caught.value.fix
    record = run_set(recipe, flag, resume=True)
    assert record["status"] == "done"
    assert [item["kind"] for item in record["artefacts"]] == ["adapter", "int8-torchao", "int8"]
    assert before == {name: (run / name / "MANIFEST.json").stat().st_mtime_ns for name in kept}


@pytest.mark.usefixtures("in_process")
def test_resume_makes_the_formats_that_are_missing(
    make_recipe: Callable[..., Path],
    run_set: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped between two formats: what is sealed stays as it is, the rest is made of it."""
    recipe, original = make_recipe("llama", **QUICK), convert.Sealed.write

    def stop_at_nf4(sealed: Any, row: Any, folder: Path) -> None:
        if row.name == "nf4":
            raise TunerError("stopped")
        original(sealed, row, folder)

    asked = set_("[adapter, int8, nf4]")
    with monkeypatch.context() as patch:
        patch.setattr(convert.Sealed, "write", stop_at_nf4)
        with pytest.raises(TunerError, match="stopped"):
            run_set(recipe, *asked)
    sealed = tmp_path / "run/int8/MANIFEST.json"
    first = sealed.stat().st_mtime_ns
    record = run_set(recipe, *asked, resume=True)
    assert [item["kind"] for item in record["artefacts"]] == ["adapter", "int8", "nf4"]
    assert sealed.stat().st_mtime_ns == first


@pytest.mark.usefixtures("in_process")
def test_a_quantized_base_is_merged_at_the_end_of_its_run(
    make_recipe: Callable[..., Path], run_set: Train, tmp_path: Path
) -> None:
    """The merge is onto the weights that the recipe names, and other formats are made of it."""
    recipe = make_recipe("llama", model={"quantize": "nf4"}, **QUICK)
    record = run_set(recipe, *set_("[int8, merged]", "export.onto=original"))
    kinds = [item["kind"] for item in record["artefacts"]]
    assert kinds == ["adapter", "int8", "merged"]
    reports = json.loads((tmp_path / "run/export.json").read_text())["artefacts"]
    assert [report["merged_onto"] for report in reports] == ["original", "original"]
    card = (tmp_path / "run/merged/README.md").read_text()
    assert "trained with: `tuner sft`, lora" in card
    assert "- steps: 8, 4 rows per step" in card


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("method", ["full", "last_layer"])
def test_a_method_without_adapter_leaves_its_model_too(
    method: str, make_recipe: Callable[..., Path], run_set: Train, tmp_path: Path
) -> None:
    recipe = make_recipe("llama-tied", method={"name": method}, **QUICK)
    made = planned(recipe, *set_("[nf4]"))
    assert made.formats == ("merged", "nf4")
    assert "merged: what the others are made from" in made.values["export.formats"].origin
    record = run_set(recipe, *set_("[nf4]"))
    assert [item["kind"] for item in record["artefacts"]] == ["merged", "nf4"]


@pytest.mark.usefixtures("in_process")
def test_a_portable_adapter_is_proven_as_it_is_written(
    make_recipe: Callable[..., Path], run_set: Train, bases: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = make_recipe("llama", method={"name": "rslora"}, **QUICK)
    record = run_set(recipe, *set_("[{adapter: {portable: true}}, merged]"))
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert (config["use_rslora"], config["lora_alpha"]) == (False, 2 * config["r"] ** 1.5)
    assert record["artefacts"][0]["max_logit_difference"] <= 1e-5
    found = logits(tuned(tmp_path / "run", bases("llama")), ROWS)
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "run/merged"), ROWS)
    assert float((found - merged).abs().max()) < 1e-4


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["t5", "opt", "qwen2", "gpt2"])
def test_other_families_leave_what_their_plan_admits(
    kind: str, make_recipe: Callable[..., Path], run_set: Train
) -> None:
    recipe, admitted = make_recipe(kind, **QUICK), []
    for name in ("int8", "nf4", "int8-torchao", "int4"):
        try:
            planned(recipe, *set_(f"[{name}]"))
        except RecipeError:
            continue
        admitted.append(name)
    assert len(admitted) == {"gpt2": 2, "t5": 3}.get(kind, 4)
    record = run_set(recipe, *set_(f"[{', '.join(admitted)}]"))
    assert [item["kind"] for item in record["artefacts"]] == ["adapter", *admitted]


@pytest.mark.usefixtures("in_process")
def test_a_reward_model_in_four_bits(
    make_recipe: Callable[..., Path], run_recipe: Train, tmp_path: Path
) -> None:
    recipe = make_recipe(
        "llama",
        data_rows=pairs(8),
        data={"eval": 2, "template": "auto"},
        export={"formats": ["adapter", "merged", "nf4"]},
        **QUICK,
    )
    record = run_recipe(recipe, verb="reward")
    assert [item["kind"] for item in record["artefacts"]] == ["adapter", "merged", "nf4"]
    assert command("verify", tmp_path / "run/nf4")[0] == 0


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("llama", {"name": "prefix"}, "[nf4]", "nf4 and method.name: prefix, which cannot be merged"),
    ("llama", {"name": "bottleneck"}, "[gguf]", "gguf and method.name: bottleneck"),
    ("llama", {"name": "full"}, "[gguf-adapter]", "gguf-adapter and method.name: full"),
    ("llama", {"name": "dora"}, "[gguf-adapter]", "only hold a plain LoRA"),
    (
        "llama",
        {"name": "oft"},
        "[{adapter: {portable: true}}]",
        "cannot be written as a plain LoRA",
    ),
    ("llama", {"name": "lora"}, "[{merged: {max_kl: 0.1}}]", "is exact"),
    ("gpt2", {"name": "lora"}, "[int4]", "int4 and a base of type gpt2"),
    ("gpt2", {"name": "lora"}, "[int8-torchao]", "int8-torchao and a base of type gpt2"),
    ("gpt2", {"name": "lora"}, "[gguf-adapter]", "gguf-adapter and a base of type gpt2"),
    ("t5", {"name": "lora"}, "[gguf]", "gguf and an encoder-decoder"),
    ("t5", {"name": "lora"}, "[int4]", "int4 and an encoder-decoder"),
]


@pytest.mark.parametrize(("kind", "method", "formats", "said"), REFUSED)
def test_what_cannot_be_is_refused_by_name_before_a_model_is_loaded(
    kind: str,
    method: dict[str, Any],
    formats: str,
    said: str,
    make_recipe: Callable[..., Path],
) -> None:
    """Whether or not the packages of the formats are installed."""
    recipe = make_recipe(kind, method=method)
    with pytest.raises(RecipeError) as caught:
        planned(recipe, *set_(formats))
    assert caught.value.exit_code == 2
    assert any(said in line for line in caught.value.problems), caught.value.problems


def test_an_unused_onto_and_a_head_are_refused(make_recipe: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(make_recipe("llama"), "export.onto=original", *set_("[merged]"))
    assert "export.onto: original has no effect" in caught.value.problems[0]
    rewards = make_recipe("llama", data_rows=pairs(8), data={"eval": 2, "template": "auto"})
    with pytest.raises(RecipeError) as caught:
        planned(rewards, *set_("[gguf]"), verb="reward")
    assert "gguf and a model with a new head" in caught.value.problems[0]


def test_what_is_not_installed_is_named_before_training(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, find = make_recipe("llama"), importlib.util.find_spec
    monkeypatch.setattr(
        "tuner.recipe.formats.importlib.util.find_spec",
        lambda name, *rest: None if name == "compressed_tensors" else find(name, *rest),
    )
    code, events = tuner(recipe, "--set", "export.formats=[adapter, int4]")
    error = only(events, "error")["error"]
    assert (code, error["kind"]) == (4, "model")
    assert "compressed_tensors is not installed" in error["why"]
    assert not (recipe.parent / "runs").exists()
    monkeypatch.setenv("TUNER_CACHE", str(recipe.parent / "cache"))
    with pytest.raises(ModelError, match=r"llama\.cpp's converter"):
        planned(recipe, *set_("[gguf]"))


def test_a_class_of_models_unknown_to_the_converter_is_refused(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    conversion = converter.folder() / "conversion"
    conversion.mkdir(parents=True)
    (conversion / "one.py").write_text('@register("GPT2LMHeadModel")\n')
    (converter.folder() / converter.SCRIPT).touch()
    with pytest.raises(RecipeError) as caught:
        planned(make_recipe("llama"), *set_("[gguf]"))
    assert "gguf and LlamaForCausalLM" in caught.value.problems[0]


def test_memory_and_disk_of_formats_are_planned(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("llama")
    plain, more = (planned(recipe, *set_(asked)) for asked in ("[adapter]", "[adapter, gguf-f32]"))
    size = 4 * more.facts["parameters"]["total"]
    one, other = (each.facts["disk"] for each in (plain, more))
    assert other["artefacts"] - one["artefacts"] == size
    assert other["conversion"] == size  # the merged model that the file is made of
    assert other["total"] == sum(part for key, part in other.items() if key != "total")
    assert more.facts["memory"]["export"] > plain.facts["memory"]["export"]
    host = hardware.detect()
    small = type(host)(**{**vars(host), "memory_bytes": more.facts["memory"]["export"] - 1})
    loaded = recipe_load.load(recipe, set_("[adapter, gguf-f32]"), "sft")
    with pytest.raises(ResourceError, match=r"export\.formats") as caught:
        make.make(loaded, small, output=recipe.parent / "run")
    assert caught.value.exit_code == 7
    assert "tuner export RUN --format gguf-f32" in caught.value.fix


@pytest.mark.usefixtures("in_process")
def test_a_rehearsal_makes_and_times_every_format(
    make_recipe: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few steps teach less than four bits round away: that refuses nothing here. The plan then
    counts the time of each format, and says which it does not know."""
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))
    recipe = make_recipe("llama", train={"learning_rate": 1e-5, "epochs": 2}, eval={"samples": 0})
    flags = ("--set", "export.formats=[adapter, nf4]")
    code, events = tuner(recipe, "--rehearse", *flags)
    assert code == 0
    found = {part["part"]: part["in_run_seconds"] for part in only(events, "rehearsal")["parts"]}
    assert found["export nf4"] > 0
    assert found["measure the tuned model for the other formats"] > 0
    assert not (recipe.parent / "runs").exists()

    def time(formats: str) -> dict[str, Any]:
        code, events = tuner(recipe, "--dry-run", "--set", f"export.formats={formats}")
        assert code == 0
        return dict(only(events, "plan")["plan"]["time"])

    both, alone, other = time("[adapter, nf4]"), time("[adapter]"), time("[adapter, nf4, int4]")
    made = found["export nf4"] + found["measure the tuned model for the other formats"]
    assert both["seconds"]["export"] - alone["seconds"]["export"] == pytest.approx(made, abs=0.11)
    assert "not_counted" not in both
    assert other["not_counted"] == ["export int4"]


READ = [
    ("auto", ["auto"]),
    ("merged", ["merged"]),
    ("[adapter, {gguf: Q4_K_M}]", ["adapter", "gguf-q4_k_m"]),
    ("[gguf-f16, {gguf: q8_0}]", ["gguf", "gguf-q8_0"]),
    ("[{gguf: {type: q4_k_m, max_kl: 0.3}}]", [{"gguf-q4_k_m": {"max_kl": 0.3}}]),
    ("[{gguf-q4_k_m: {max_kl: 1}}]", [{"gguf-q4_k_m": {"max_kl": 1.0}}]),
    ("[{nf4: {}}, {adapter: {portable: false}}]", ["nf4", "adapter"]),
]
WRONG = [
    ("[gguf-q3]", "no format 'gguf-q3'"),
    ("[adaptr]", "did you mean 'adapter'"),
    ("[{gguf: q3}]", "no GGUF type 'q3'"),
    ("[{nf4: q4_0}]", "nf4 takes no type"),
    ("[nf4, {nf4: {max_kl: 1}}]", "nf4 is listed twice"),
    ("[{gguf: q4_0}, gguf-q4_0]", "gguf-q4_0 is listed twice"),
    ("[{nf4: {max_kl: none}}]", "nf4: max_kl: 'none' is not valid"),
    ("[{nf4: {max_kl: -1}}]", "nf4: max_kl: '-1' is not valid"),
    ("[{nf4: {bits: 4}}]", "nf4: no option 'bits'"),
    ("[{adapter: {max_kl: 1}}]", "adapter stores the exact trained weights"),
    ("[{nf4: {portable: true}}]", "portable is an option of adapter"),
    ("[{nf4: {}, int4: {}}]", "a mapping with one key"),
    ("[[nf4]]", "a mapping with one key"),
    ("[{auto: {max_kl: 1}}]", "auto takes no options"),
]


@pytest.mark.parametrize(("text", "items"), READ)
def test_names_types_and_options_of_formats(
    text: str, items: list[Any], make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """What is read is written into the lock so that it reads back equal."""
    recipe = recipe_load.load(make_recipe(), set_(text)).recipe
    assert [*recipe.export.formats] == items
    lock = tmp_path / "again.yaml"
    lock.write_text(dump.dump(recipe), "utf-8")
    assert recipe_load.load(lock).recipe.export == recipe.export


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_wrong_formats_are_said_with_their_place(
    text: str, said: str, make_recipe: Callable[..., Path]
) -> None:
    recipe = make_recipe()
    body = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(body) + f"export:\n  formats: {text}\n")
    with pytest.raises(RecipeError) as caught:
        recipe_load.load(recipe)
    (line,) = caught.value.problems
    assert said in line
    assert line.startswith(f"{recipe}:{len(recipe.read_text().splitlines())}: export.formats")


def test_auto_goes_with_further_formats(make_recipe: Callable[..., Path]) -> None:
    made = planned(make_recipe("llama"), *set_("[auto, {nf4: {max_kl: 0.2}}]"))
    assert made.formats == ("adapter", "merged", "nf4")
    assert made.recipe.export.options("nf4") == {"max_kl": 0.2}


def test_the_schema_knows_every_format_and_its_options() -> None:
    schema = json_schema()["$defs"]["ExportSection"]["properties"]["formats"]
    word, mapping, listed = schema["anyOf"]
    assert {*FORMATS} < {*word["enum"]}
    assert listed["items"]["anyOf"] == [word, mapping]
    assert set(mapping["properties"]) == {*FORMATS} - {"virtual_tokens"}
    assert "max_kl" in mapping["properties"]["nf4"]["properties"]
    assert mapping["properties"]["adapter"]["properties"].keys() == {"portable"}
    assert "{gguf: q4_k_m}" in str(ExportSection.model_fields["formats"].description)


def test_the_command_line_takes_the_same_names() -> None:
    assert [row.name for row in known(["gguf-F16", "gguf", "GGUF-Q8_0"])] == ["gguf", "gguf-q8_0"]
