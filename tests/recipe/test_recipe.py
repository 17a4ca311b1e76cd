"""Recipes: every key known, typed, overridable, and every mistake named (rows H01, H06, I08)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from tuner.console.redact import MASK, looks_secret, redact
from tuner.errors import RecipeError
from tuner.methods import METHODS
from tuner.recipe import bundled, explain
from tuner.recipe.dump import dump
from tuner.recipe.json_schema import json_schema
from tuner.recipe.load import LoadedRecipe, flat, load
from tuner.recipe.schema import Recipe, keys_of, sections
from tuner.recipe.verbs import TASK_SECTIONS, VERBS

BASE = {"data": {"train": "rows.jsonl"}}
# One valid value for every key, none of them the default; the walk below fails where one lacks.
OTHER: dict[str, str] = {
    "model.base": "llama",
    "model.revision": "main",
    "model.dtype": "float32",
    "model.quantize": "nf4",
    "model.new_tokens": "[<law>, <case>]",
    "model.task": "classification",
    "model.trust_remote_code": "true",
    "model.code_sha256": "0" + "1" * 62 + "f",
    "data.train": "[a.jsonl, b.jsonl]",
    "data.eval": "0.25",
    "data.template": "chat",
    "data.columns": "{prompt: question}",
    "data.labels": "[yes, no]",
    "data.render": "raw",
    "data.max_length": "128",
    "data.long": "split",
    "data.max_rows": "7",
    "data.packing": "false",
    "data.special_tokens_in_text": "error",
    "data.max_bad_rows": "3",
    "method.name": "rslora",
    "method.r": "4",
    "method.alpha": "3.5",
    "method.dropout": "0.25",
    "method.target_modules": "[q_proj, v_proj]",
    "method.allow_partial_targets": "true",
    "method.init": "olora",
    "method.layers": "[0, 3]",
    "method.rank_pattern": "{q_proj: 2}",
    "method.b_rate_ratio": "16",
    "method.experts": "true",
    "method.modules_to_save": "[lm_head]",
    "method.stages": "[{train: all, epochs: 2, learning_rate: 1e-5}]",
    "method.num_virtual_tokens": "8",
    "method.init_text": "Answer shortly.",
    "method.projection": "none",
    "method.hidden_size": "48",
    "method.encoder": "lstm",
    "method.num_layers": "3",
    "method.ranks": "2",
    "method.source": "runs/first",
    "method.source_task": "1",
    "method.size": "24",
    "method.placement": "mlp",
    "method.activation": "relu",
    "method.start_r": "6",
    "method.orthogonality": "0.25",
    "method.block_size": "64",
    "method.factors": "2",
    "method.tokens": "[the, end]",
    "method.coefficients": "77",
    "method.scale": "99.5",
    "method.length": "6",
    "train.epochs": "0.5",
    "train.max_steps": "9",
    "train.batch_size": "5",
    "train.micro_batch_size": "5",
    "train.learning_rate": "1e-3",
    "train.scheduler": "cosine",
    "train.warmup": "12",
    "train.weight_decay": "0.01",
    "train.max_grad_norm": "2.5",
    "train.gradient_checkpointing": "true",
    "train.qat": "int4",
    "train.save_steps": "11",
    "train.logging_steps": "13",
    "train.adam_beta1": "0.85",
    "train.adam_beta2": "0.95",
    "train.adam_epsilon": "1e-6",
    "eval.enabled": "false",
    "eval.metrics": "loss",
    "eval.max_rows": "17",
    "eval.samples": "0",
    "eval.max_new_tokens": "19",
    "export.formats": "[adapter, {gguf: q4_k_m}, {nf4: {max_kl: 0.3}}]",
    "export.onto": "original",
    "run.output": "somewhere",
    "run.seed": "23",
    "run.device": "cpu",
    "run.devices": "3",
    "run.nodes": "2",
    "run.strategy": "fsdp",
    "run.timeout": "99",
    "run.price_per_hour": "2.5",
    "reward.margins": "false",
    "reward.centering": "0.5",
    "rlhf.algorithm": "grpo",
    "rlhf.policy": "runs/first",
    "rlhf.reward": "[{rule: length, max: 9}]",
    "rlhf.allow_code": "true",
    "rlhf.responses_per_prompt": "3",
    "rlhf.max_new_tokens": "21",
    "rlhf.temperature": "0.5",
    "rlhf.vllm": "colocate",
    "rlhf.kl_coefficient": "0.25",
    "rlhf.kl_limit": "31",
    "rlhf.missing_eos_penalty": "2.5",
    "rlhf.sample_steps": "33",
    "ppo.epochs": "5",
    "ppo.minibatches": "7",
    "ppo.clip": "0.3",
    "ppo.value_clip": "0.4",
    "ppo.value_coefficient": "0.6",
    "ppo.value_trunk": "reward",
    "ppo.share_trunk": "true",
    "ppo.value_learning_rate": "1e-3",
    "ppo.gamma": "0.9",
    "ppo.gae_lambda": "0.8",
    "ppo.kl_estimator": "k3",
    "ppo.kl_target": "6",
    "ppo.kl_horizon": "77",
    "ppo.kl_stop": "0.7",
    "ppo.whiten_rewards": "true",
    "ppo.whiten_advantages": "false",
    "ppo.score_clip": "4.5",
    "ppo.normalize_scores": "true",
    "ppo.ptx_coefficient": "0.125",
    "ppo.ptx_data": "more.jsonl",
    "compare.methods": "[{name: lora}, {name: full}]",
    "compare.learning_rates": "{lora: 0.5}",
}
KEYS = [(section, key) for section in sections() for key in keys_of(section)]
# The section `compare` is for a command of its own, and no part of a run.
RUN_KEYS = [pair for pair in KEYS if pair[0] != "compare"]
# What a method, or a section other than `data`, cannot do without.
NEEDED: dict[str, dict[str, str]] = {
    "trainable_tokens": {"tokens": "[a]"},
    "compare": {"methods": "[{name: dora}]"},
}


def verb_of(section: str) -> str:
    """The verb of the task that reads a section."""
    return TASK_SECTIONS.get(section, "sft")


def method_with(key: str) -> str:
    return next(name for name, row in METHODS.items() if key in row.options.model_fields)


def method_section(name: str) -> dict[str, str]:
    """The least that a recipe says of a method."""
    return {"name": name, **NEEDED.get(name, {})}


def write(folder: Path, tree: dict[str, Any], name: str = "recipe.yaml") -> Path:
    """Write a recipe with one key a line; values are YAML text as it stands."""
    lines = []
    for section, keys in tree.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {value}" for key, value in keys.items()]
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def with_key(section: str, key: str, value: str) -> dict[str, Any]:
    """A recipe with this key; of a method that has it."""
    tree: dict[str, Any] = {name: dict(keys) for name, keys in BASE.items()}
    if section == "method" and key != "name":
        tree["method"] = method_section(method_with(key))
    tree.setdefault(section, dict(NEEDED.get(section, {})))[key] = value
    return tree


def problem(file: Path, *overrides: str, verb: str = "sft") -> RecipeError:
    with pytest.raises(RecipeError) as error:
        load(file, overrides, verb)
    assert error.value.exit_code == 2
    assert "pydantic" not in str(error.value)
    return error.value


def value_of(loaded: LoadedRecipe, section: str, key: str) -> Any:
    return flat(loaded.recipe)[f"{section}.{key}"]


def test_the_walk_covers_the_schema() -> None:
    assert set(OTHER) == {f"{section}.{key}" for section, key in KEYS}
    assert set(sections()) == set(Recipe.model_fields)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_has_a_description(section: str, key: str) -> None:
    if (section, key) != ("method", "name"):
        assert keys_of(section)[key].description


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_misspelt_key_is_named_with_line_and_nearest_key(
    tmp_path: Path, section: str, key: str
) -> None:
    """H01: one letter changed, at every place of every key."""
    for index in range(len(key)):
        wrong = key[:index] + ("q" if key[index] != "q" else "z") + key[index + 1 :]
        tree = with_key(section, key, OTHER[f"{section}.{key}"])
        value = tree[section].pop(key)
        tree[section][wrong] = value
        error = problem(write(tmp_path, tree))
        line = next(text for text in error.problems if wrong in text)
        number = file_line(tmp_path, wrong)
        assert f"recipe.yaml:{number}: {section}.{wrong}: unknown key; " in line
        # Without its new letter the word may be another key: `deviceq` is `device` and one more.
        also = {wrong[:at] + wrong[at + 1 :] for at in range(len(wrong))} & set(keys_of(section))
        meant = line.partition("did you mean ")[2]
        near = any(f"'{one}'" in meant for one in {key, *also})
        assert near or (len(key) < 3 and f" {key}" in line)


def file_line(folder: Path, word: str) -> int:
    lines = (folder / "recipe.yaml").read_text().splitlines()
    return next(number for number, text in enumerate(lines, 1) if text.strip().startswith(word))


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_in_another_section_is_sent_home(tmp_path: Path, section: str, key: str) -> None:
    """H01"""
    homes = [name for name in sections() if key in keys_of(name)]
    for wrong in set(sections()) - set(homes):
        tree: dict[str, Any] = {name: dict(keys) for name, keys in BASE.items()}
        tree.setdefault(wrong, {})[key] = OTHER[f"{section}.{key}"]
        error = problem(write(tmp_path, tree))
        said = next(text for text in error.problems if f"{wrong}.{key}: unknown key" in text)
        assert all(home in said.partition("it belongs under")[2] for home in homes)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_outside_the_sections_is_sent_home(tmp_path: Path, section: str, key: str) -> None:
    """H01"""
    if key in sections():
        return
    file = tmp_path / "recipe.yaml"
    file.write_text(f"data: {{train: a}}\n{key}: {OTHER[f'{section}.{key}']}\n")
    (said,) = problem(file).problems
    assert said.startswith(f"{file}:2: {key}: unknown section; the key belongs under ")
    assert section in said


@pytest.mark.parametrize(("section", "key"), [pair for pair in KEYS if "_" in pair[1]])
def test_hyphens_are_told_from_underscores(tmp_path: Path, section: str, key: str) -> None:
    """H01"""
    wrong = key.replace("_", "-")
    tree = with_key(section, key, OTHER[f"{section}.{key}"])
    tree[section][wrong] = tree[section].pop(key)
    error = problem(write(tmp_path, tree))
    assert any(f"{section}.{wrong}: unknown key; did you mean '{key}'" in x for x in error.problems)


@pytest.mark.parametrize("section", sections())
def test_a_misspelt_section_is_named(tmp_path: Path, section: str) -> None:
    """H01"""
    for index in range(len(section)):
        wrong = section[:index] + "q" + section[index + 1 :]
        error = problem(write(tmp_path, {**BASE, wrong: {"x": "1"}}))
        assert any(
            f":3: {wrong}: unknown section; did you mean '{section}'" in text
            for text in error.problems
        )


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, section: str, key: str) -> None:
    """H01: a list of mappings fits no key but `stages`, a nested list none at all."""
    error = problem(write(tmp_path, with_key(section, key, "[[[]]]")))
    where = f"recipe.yaml:{file_line(tmp_path, key)}: {section}.{key}"
    said = "no method" if (section, key) == ("method", "name") else "expected "
    assert any(where in text and said in text for text in error.problems)


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """H01"""
    tree = {
        "modle": {"base": "x"},
        "data": {"train": "a", "eval": "-3"},
        "method": {"name": "full", "r": "8"},
        "train": {"epochs": "0", "batchsize": "4", "scheduler": "cosin"},
    }
    error = problem(write(tmp_path, tree), "train.max_steps=x", "eval.enable=true", verb="lora")
    said = [text.replace(f"{tmp_path}/", "") for text in error.problems]
    assert said == [
        "--set train.max_steps=x: train.max_steps: expected a whole number, 1 or more, or null, "
        "not 'x'",
        "--set eval.enable=true: eval.enable: unknown key; did you mean 'enabled'",
        "recipe.yaml:1: modle: unknown section; did you mean 'model'",
        "recipe.yaml:5: data.eval: expected a file, a fraction below 1 or a whole number of rows, "
        "not -3.0",
        "recipe.yaml:8: method.r: not an option of full; lora, rslora, dora, adalora, vera, "
        "lokr and loha have it",
        "recipe.yaml:10: train.epochs: expected a number, above 0, not '0'",
        "recipe.yaml:11: train.batchsize: unknown key; did you mean 'batch_size'",
        "recipe.yaml:12: train.scheduler: expected one of linear, cosine, constant, not 'cosin'",
        "recipe.yaml:7: method.name: `tuner lora` does not train method 'full'; `tuner sft` does",
    ]
    assert "8 problems" not in error.what
    assert "9 problems" in error.what


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """H01"""
    assert "data: is missing" in str(problem(write(tmp_path, {"run": {"seed": "1"}})))
    assert "data.train: is missing" in str(problem(write(tmp_path, {"data": {"eval": "1"}})))
    tree = {**BASE, "method": {"name": "staged", "stages": "[{train: all}]"}}
    assert "method.stages.0.learning_rate: is missing" in str(problem(write(tmp_path, tree)))


@pytest.mark.parametrize(("section", "key"), RUN_KEYS)
def test_set_wins_over_the_file(tmp_path: Path, section: str, key: str) -> None:
    """H06: (file a, none) -> a; (file a, flag b) -> b; a flag that equals the default wins too."""
    name, other = f"{section}.{key}", OTHER[f"{section}.{key}"]
    tree = with_key(section, key, other)
    plain: dict[str, Any] = {name: dict(keys) for name, keys in tree.items()}
    required = keys_of(section)[key].is_required()
    if not required:
        del plain[section][key]
    verb = verb_of(section)
    default = load(write(tmp_path, plain, "plain.yaml"), verb=verb)
    file = write(tmp_path, tree)

    from_file = load(file, verb=verb)
    assert from_file.origins[name] == f"recipe line {file_line(tmp_path, f'{key}:')}"
    by_flag = load(tmp_path / "plain.yaml", [f"{name}={other}"], verb)
    assert value_of(by_flag, section, key) == value_of(from_file, section, key)
    assert by_flag.origins[name] == "--set"
    if not required:
        assert default.origins[name] == "default"
        assert value_of(from_file, section, key) != value_of(default, section, key)

    dumped = dump(default.recipe).splitlines()
    back = written_value(dumped, section, key)
    again = load(file, [f"{name}={back}"], verb)
    assert value_of(again, section, key) == value_of(default, section, key)
    assert again.origins[name] == "--set"


@pytest.mark.parametrize("key", keys_of("compare"))
def test_set_wins_over_the_file_in_a_comparison(tmp_path: Path, key: str) -> None:
    """H06"""
    name, other = f"compare.{key}", OTHER[f"compare.{key}"]
    first = {**BASE, "compare": {"methods": "[{name: rslora}]", "learning_rates": "{rslora: 0.1}"}}
    second: dict[str, Any] = {**first, "compare": {**first["compare"], key: other}}
    from_file = load(write(tmp_path, second, "second.yaml"), verb=None).recipe.compare
    by_flag = load(write(tmp_path, first), [f"{name}={other}"], verb=None).recipe.compare
    assert by_flag == from_file != load(write(tmp_path, first), verb=None).recipe.compare


def written_value(lines: list[str], section: str, key: str) -> str:
    """A key's value in a dumped recipe, as flow YAML."""
    inside = list(itertools.dropwhile(lambda text: text != f"{section}:", lines))
    at = next(i for i, text in enumerate(inside) if text.startswith(f"  {key}:"))
    if rest := inside[at].partition(":")[2].strip():
        return rest
    block = itertools.takewhile(lambda text: text.startswith(("  -", "    ")), inside[at + 1 :])
    items: list[str] = []
    for text in block:
        if text.startswith("  - "):
            items.append(text[4:])
        else:
            items[-1] += f", {text.strip()}"
    return "[" + ", ".join(f"{{{x}}}" if ": " in x else x for x in items) + "]"


def test_the_last_of_several_flags_wins_and_output_is_one(tmp_path: Path) -> None:
    """H06"""
    file = write(tmp_path, {**BASE, "run": {"output": "a"}})
    assert load(file, ["run.seed=1", "run.seed=2"]).recipe.run.seed == 2
    loaded = load(file, output="b")
    assert (loaded.recipe.run.output, loaded.origins["run.output"]) == ("b", "--output")
    with pytest.raises(RecipeError, match="keep one of them"):
        load(file, ["run.output=c"], output="b")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1", "write it as run.seed=value"),
        ("seed", "write it as section.key=value"),
        ("run.seed", "write it as section.key=value"),
        ("zzz=1", "write it as section.key=value"),
        ("runn.seed=1", "unknown section; did you mean 'run'"),
        ("run.seeed=1", "unknown key; did you mean 'seed'"),
        ("run.seed=x", "expected a whole number, 0 or more, not 'x'"),
        ("run.seed=[", "not a YAML value"),
        ("run.seed.deep=1", "expected a whole number"),
        ("run.output.deep=1", "expected text"),
        ("train.epochs=", "expected a number, above 0, not an empty value"),
    ],
)
def test_a_wrong_set_is_named(tmp_path: Path, override: str, said: str) -> None:
    """H01, H06"""
    file = write(tmp_path, BASE)
    assert f"--set {override}: " in str(problem(file, override))
    assert said in str(problem(file, override))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.trl.adam_beta1=0.8", "train.trl: unknown key; it is now train.adam_beta1"),
        ("train.trl={}", "it is now train.adam_beta1, train.adam_beta2 and train.adam_epsilon"),
        ("train.trl=x", "it is now train.adam_beta1, train.adam_beta2 and train.adam_epsilon"),
        ("run.strategy=deepspeed", "run.strategy: deepspeed is not supported; did you mean 'fsdp'"),
        ("run.strategy=fdsp", "run.strategy: expected one of auto, ddp, fsdp, not 'fdsp'"),
    ],
)
def test_an_old_key_is_answered_with_the_new_one(tmp_path: Path, override: str, said: str) -> None:
    assert said in str(problem(write(tmp_path, BASE), override))


def test_set_reaches_into_free_mappings(tmp_path: Path) -> None:
    data = {**BASE["data"], "columns": "{prompt: a, completion: b}"}
    loaded = load(write(tmp_path, {**BASE, "data": data}), ["data.columns.prompt=question"])
    assert loaded.recipe.data.columns == {"prompt": "question", "completion": "b"}
    assert loaded.origins["data.columns"] == "--set"


def test_a_data_file_on_the_command_line_is_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.jsonl").touch()
    monkeypatch.chdir(tmp_path / "here")
    loaded = load(write(tmp_path, BASE), ["data.train=mine.jsonl", "data.eval=other.jsonl"])
    assert loaded.recipe.data.train == (str(tmp_path / "here" / "mine.jsonl"),)
    assert loaded.recipe.data.eval == "other.jsonl"


@pytest.mark.parametrize("name", METHODS)
def test_a_dumped_recipe_loads_back_equal(tmp_path: Path, name: str) -> None:
    """H10: `recipe.lock.yaml` repeats the run."""
    file = write(tmp_path, {**BASE, "method": method_section(name)})
    values = {f"{s}.{k}": OTHER[f"{s}.{k}"] for s, k in RUN_KEYS if s != "method"}
    odd = ["1e-4", "no", "null", "合同", 'a"b\\c', " x ", "tab\tnew\nline\u2028", "😀"]
    labels = f"data.labels={json.dumps(odd, ensure_ascii=False)}"
    free = 'data.columns={a: "1e-4", b: "012", c: "true", d: "~"}'
    for verb in ("sft", "reward", "rlhf"):
        # Another algorithm than ppo has no section ppo.
        keys = [
            f"{key}={value}"
            for key, value in values.items()
            if verb_of(key.partition(".")[0]) in ("sft", verb) and key != "rlhf.algorithm"
        ]
        for overrides in ([], [*keys, labels, free, 'data.eval="1e-4"']):
            loaded = load(file, overrides, verb)
            (tmp_path / "lock.yaml").write_text(dump(loaded.recipe), encoding="utf-8")
            assert load(tmp_path / "lock.yaml", (), verb).recipe == loaded.recipe


def test_a_dump_for_another_folder_keeps_the_data_files(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    loaded = load(write(tmp_path, BASE))
    away = tmp_path / "away"
    away.mkdir()
    (away / "lock.yaml").write_text(dump(loaded.recipe, loaded.folder), encoding="utf-8")
    assert load(away / "lock.yaml").recipe.data.train == (str(tmp_path / "rows.jsonl"),)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("method", METHODS)
def test_a_verb_takes_the_methods_of_its_family(tmp_path: Path, verb: str, method: str) -> None:
    file = write(tmp_path, {**BASE, "method": method_section(method)})
    if VERBS[verb].family in (None, METHODS[method].verb):
        assert load(file, verb=verb).recipe.method.name == method
        return
    error = problem(file, verb=verb)
    assert error.fix == f"run: tuner {METHODS[method].verb} --recipe {file}"
    assert f"`tuner {METHODS[method].verb}` does" in str(error)


def test_without_a_method_the_verb_decides(tmp_path: Path) -> None:
    file = write(tmp_path, BASE)
    for verb, origin in (("lora", "verb"), ("sft", "default")):
        loaded = load(file, verb=verb)
        assert (loaded.recipe.method.name, loaded.origins["method.name"]) == ("lora", origin)
        assert (loaded.verb, loaded.task) == (verb, "sft")
    assert load(file, ["method.r=4"], verb="lora").recipe.method.name == "lora"
    assert load(file, ["method.name=full"], verb=None).verb == "sft"
    assert load(file, ["method.name=dora"], verb=None).verb == "lora"


def test_an_unknown_method_gets_the_nearest(tmp_path: Path) -> None:
    (said,) = problem(write(tmp_path, {**BASE, "method": {"name": "loraa", "r": "x"}})).problems
    assert said.endswith("recipe.yaml:4: method.name: no method 'loraa'; did you mean 'lora'")
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {train: a}\nmethod: lora\n")
    assert "expected keys such as {name: lora}, not 'lora'" in str(problem(file))


def test_empty_sections_are_sections_left_out(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {train: a}\ntrain:\n  # epochs: 2\neval:\n")
    assert load(file).recipe == load(write(tmp_path, {"data": {"train": "a"}}, "b.yaml")).recipe


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", "expected sections"),
        (b"word", "expected sections"),
        (b"data: {train: \xff}\n", "recipe.yaml:1: the text is not UTF-8"),
        ("data: {train: a}\n".encode("utf-16"), "the text is UTF-16"),
        (b"x" * (1 << 20) + b"x", "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    assert said in str(problem(file))


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in str(problem(tmp_path))
    assert "there is no such file" in str(problem(tmp_path / "none.yaml"))
    assert "not a regular file" in str(problem(Path("/dev/null")))


def test_a_bundled_recipe_answers_to_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, BASE, "contracts.yaml")
    monkeypatch.setattr(bundled, "folder", lambda kind: tmp_path)
    assert load(Path("contracts")).path == file
    assert load(Path("contracts")).name == "contracts"
    assert "bundled recipe 'contracts'" in str(problem(Path("contract.yaml")))


TOKENS = [
    "hf_CANARYcanary0123456789",
    "sk-CANARY0123456789abcdef",
    "ghp_CANARY0123456789abcdef",
    "AKIACANARY0123456789",
    "https://user:CANARYpw@host/data.jsonl",
    "https://CANARYtoken@host/data.jsonl",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "tree",
    [
        {"data": {"train": "{}"}},
        {"data": {"train": "[a, {}]"}},
        {"data": {"train": "a"}, "model": {"base": "{}"}},
        {"data": {"train": "a"}, "rlhf": {"reward": "[{{deep: [{{er: '{}'}}]}}]"}},
        {"data": {"train": "a", "'{}'": "1"}},
        {"data": {"train": "a"}, "'{}'": {"x": "1"}},
        {"data": {"train": "a"}, "run": {"seed": "{}"}},
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_not_echoed(
    tmp_path: Path, token: str, tree: dict[str, dict[str, str]]
) -> None:
    """I08"""
    filled = {
        section.format(token): {k.format(token): v.format(token) for k, v in keys.items()}
        for section, keys in tree.items()
    }
    error = problem(write(tmp_path, filled))
    assert "must not hold secrets" in error.what
    assert "CANARY" not in str(error)
    assert all("looks like a secret" in line and "recipe.yaml:" in line for line in error.problems)


@pytest.mark.parametrize("token", TOKENS)
def test_a_secret_on_the_command_line_is_refused_and_not_echoed(tmp_path: Path, token: str) -> None:
    """I08"""
    file = write(tmp_path, BASE)
    for overrides in ([f"model.base={token}"], [f"{token}=1"], [f"data.columns={{a: '{token}'}}"]):
        assert "CANARY" not in str(problem(file, *overrides))
    with pytest.raises(RecipeError) as error:
        load(file, output=token)
    assert "CANARY" not in str(error.value)


def test_a_secret_of_the_environment_is_known_by_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I08: no shape gives a wandb key away."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    file = write(
        tmp_path, {**BASE, "model": {"revision": "0123456789abcdef0123456789abcdef01234567"}}
    )
    assert "must not hold secrets" in problem(file).what
    assert redact("key 0123456789abcdef0123456789abcdef01234567!") == f"key {MASK}!"


@pytest.mark.parametrize(
    "word",
    [
        "data/hf_conversations.jsonl",
        "hf_models",
        "HuggingFaceTB/SmolLM2-135M",
        "sk-learn-notes",
        "https://host/path?q=a@b",
        "s3://bucket/key",
        "user@host",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_ordinary_words_are_no_secrets(word: str) -> None:
    """I08: a guard that cries wolf gets switched off."""
    assert not looks_secret(word)
    assert redact(word) == word


def test_the_json_schema_knows_every_key() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(sections())
    models = schema["$defs"].values()
    described = {name for model in models for name in model.get("properties", {})}
    assert {key for _, key in KEYS} <= described
    section = schema["$defs"]["DataSection"]["properties"]
    assert {"type": "string"} in section["train"]["anyOf"]
    assert all("description" in key for key in section.values())
    assert schema["$defs"]["DataSection"]["additionalProperties"] is False


def test_every_method_has_a_place_in_the_schema() -> None:
    """A new row in METHODS must be a tag of the method section, and say its own name."""
    names = {model.model_fields["name"].default for model in sections()["method"]}
    assert names == set(METHODS)
    for row in METHODS.values():
        assert get_args(row.options.model_fields["name"].annotation) == (row.name,)
        assert row.verb in VERBS


def test_ranges_are_said_in_words() -> None:
    said = {
        "train.epochs": "a number, above 0",
        "train.batch_size": "a whole number, 1 or more",
        "method.dropout": "a number, 0 or more and below 1",
        "method.alpha": "a number, above 0, or auto",
        "method.rank_pattern": "a mapping",
        "data.train": "a word or a list of words",
        "model.revision": "text, or null",
        "eval.enabled": "true or false",
        "method.stages": "a list",
        "data.columns": "a mapping",
    }
    for name, text in said.items():
        section, key = name.split(".")
        field = keys_of(section, "staged" if key == "stages" else "lora")[key]
        assert explain.describe(field.annotation, field.metadata) == text
