"""The chat template that a recipe chooses, and its arguments, from the plan to the answer."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from tests.chat_templates import FAMILIES
from tests.tokenizers import make_tokenizer
from tuner.data import bundled_chats
from tuner.data.chat import template_probe
from tuner.data.chat.chat_template import ChatTemplate, with_defaults
from tuner.data.tokens.conversation import Prompts
from tuner.errors import DataError, ModelError, RecipeError, SafetyError, TunerError
from tuner.export.gguf import modelfile
from tuner.machine import hardware
from tuner.model import conversation
from tuner.plan import data as plan_data
from tuner.plan import ground
from tuner.plan import make as plan_make
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load
from tuner.recipe.history_rows import BEGUN
from tuner.recipe.schema_model import ModelSection

ASKED = [{"role": "user", "content": "Due?"}]
BUNDLED = {*bundled_chats.names()}
TURNS = [*ASKED, {"role": "assistant", "content": "Now."}]


def settled(tokenizer: Any, folder: Path, **keys: Any) -> Any:
    conversation.settle(tokenizer, ModelSection(**keys), folder)
    return tokenizer


def prompt(tokenizer: Any, **arguments: Any) -> str:
    text = tokenizer.apply_chat_template(
        ASKED, add_generation_prompt=True, tokenize=False, **arguments
    )
    return str(text)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bundled_name_is_a_template_and_its_stop_token(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    if family.file.stem not in BUNDLED or family.head:
        pytest.skip("not bundled")
    tokenizer = family.tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = None, "<pad>"
    settled(tokenizer, tmp_path, chat_template=family.file.stem)
    assert tokenizer.chat_template == family.file.read_text("utf-8")
    if name == "mistral":
        return  # it writes the tokenizer's own end of sequence
    assert tokenizer.eos_token == family.specials[0]
    assert (
        str(tokenizer.apply_chat_template(TURNS, tokenize=False))
        .rstrip()
        .endswith(family.specials[0])
    )


def test_the_fix_for_missing_tokens_works(make_recipe: Callable[..., Path]) -> None:
    """A base without the template's tokens: the error names the line to add."""
    with pytest.raises(RecipeError) as caught:
        planned(make_recipe(tokenizer="plain", model={"chat_template": "chatml"}))
    assert caught.value.fix == 'add them: model.new_tokens: ["<|im_start|>", "<|im_end|>"]'
    made = planned(
        make_recipe(
            tokenizer="plain",
            model={"chat_template": "chatml", "new_tokens": ["<|im_start|>", "<|im_end|>"]},
        )
    )
    assert made.tokenizer.eos_token == "<|im_end|>"
    row = made.prepared.train[0]
    assert row.input_ids[row.supervised.index(False)] == made.tokenizer.convert_tokens_to_ids(
        "<|im_start|>"
    )
    assert made.tokenizer.eos_token_id in row.input_ids


def planned(recipe: Path) -> Plan:
    loaded = recipe_load.load(recipe, verb="sft")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "run")


@pytest.mark.parametrize("name", ["qwen", "nothing.jinja"])
def test_an_unknown_template_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="there is no template") as caught:
        settled(FAMILIES["qwen3"].tokenizer(), tmp_path, chat_template=name)
    assert "qwen3" in str(caught.value.why)


def test_a_template_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}", "utf-8")
    tokenizer = settled(FAMILIES["chatml"].tokenizer(), tmp_path, chat_template="own.jinja")
    assert prompt(tokenizer) == "Due?<|im_end|>"
    file.write_text("{{ messages.__class__ }}", "utf-8")
    with pytest.raises(SafetyError, match=r"model\.chat_template: own\.jinja"):
        settled(FAMILIES["chatml"].tokenizer(), tmp_path, chat_template="own.jinja")
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RecipeError, match="cannot be read"):
        settled(FAMILIES["chatml"].tokenizer(), tmp_path, chat_template="own.jinja")


def test_a_template_that_cannot_show_a_chat_is_refused(tmp_path: Path) -> None:
    """One for images, whose contents are lists: the templates that the fix names can be used."""
    file = tmp_path / "own.jinja"
    file.write_text(
        "{% for m in messages %}{% for part in m.content %}{{ part.text + '<|im_end|>' }}"
        "{% endfor %}{% endfor %}",
        "utf-8",
    )
    with pytest.raises(ModelError, match=r"own\.jinja cannot be used") as caught:
        settled(FAMILIES["chatml"].tokenizer(), tmp_path, chat_template="own.jinja")
    assert "has no attribute 'text'" in str(caught.value.why)
    name = caught.value.fix.partition(": ")[2].split(", ")[0]
    tokenizer = settled(FAMILIES[name].tokenizer(), tmp_path, chat_template=name)
    assert prompt(tokenizer) == "<|im_start|>user\nDue?<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[str] = []
    true = template_probe.learn

    def learn(source: str, render: Any) -> Any:
        probed.append(source)
        return true(source, render)

    monkeypatch.setattr(template_probe, "learn", learn)
    tokenizer = FAMILIES["chatml"].tokenizer()
    tokenizer.chat_template += "{# another #}"
    assert ChatTemplate(tokenizer).abilities is ChatTemplate(tokenizer).abilities
    assert probed == [tokenizer.chat_template]


def test_the_fix_for_a_template_that_cannot_be_trained_works(
    make_recipe: Callable[..., Path],
) -> None:
    """It answers elsewhere than behind its prompt; with the one that the error names, it plans."""
    tokenizer = make_tokenizer("chatml")
    recipe = make_recipe(data_rows=ROWS, data={"template": "auto", "eval": 0})
    base = Path(yaml.safe_load(recipe.read_text("utf-8"))["model"]["base"])
    other = recipe.parent / "base"
    shutil.copytree(base, other)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'answer: ' }}{% endif %}"
    )
    tokenizer.save_pretrained(other)
    sections: dict[str, Any] = {"data_rows": ROWS, "data": {"template": "auto", "eval": 0}}
    with pytest.raises(DataError, match="cannot be trained on") as caught:
        planned(make_recipe(**sections, model={"base": str(other)}))
    key, name = re.findall(r"model\.(\w+): (\w+)", caught.value.fix)[0]
    planned(make_recipe(**sections, model={"base": str(other), key: name}))


@pytest.mark.parametrize("verb", ["sft", "reward", "rlhf"])
def test_a_template_that_leaves_the_answers_beginning_out_of_prompts_is_refused(
    make_recipe: Callable[..., Path], verb: str
) -> None:
    """It has no add_generation_prompt: exit 3 and both prompts; with the line that the fix names,
    and with a template that has it, it plans. A run that began so goes on."""
    turns = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content"
    source = turns + " + '<|im_end|>\n' }}{% endfor %}\n"
    answers = {"chosen": "Now.", "rejected": "Never."} if verb == "reward" else {}
    rows = ROWS if verb == "sft" else [{"prompt": f"Due {n}?", **answers} for n in range(4)]
    rewards = {"reward": [{"rule": "length", "max": 8}], "max_new_tokens": 8, "algorithm": "rloo"}
    sections: dict[str, Any] = {"data_rows": rows, "data": {"template": "auto", "eval": 0}}
    sections |= {"rlhf": rewards} if verb == "rlhf" else {}

    def made(name: str, **origins: str) -> Plan:
        recipe = make_recipe(**sections, model={"chat_template": name})
        (recipe.parent / "own.jinja").write_text(source, "utf-8")
        loaded = recipe_load.load(recipe, verb=verb)
        loaded = replace(loaded, origins=loaded.origins | origins)
        return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "run")

    with pytest.raises(DataError, match="is not the prompt that is sent") as caught:
        made("own.jinja")
    sent = "<|im_start|>user\\n...<|im_end|>\\n"
    assert f"\n  trained '{sent}<|im_start|>assistant\\n'" in caught.value.why
    assert f"\n  sent    '{sent}'" in caught.value.why
    made("own.jinja", **{"model.chat_date": BEGUN})
    made(caught.value.fix.rpartition("model.chat_template: ")[2])
    (line,) = re.findall(r"\{%-.*-%\}", caught.value.fix)
    source += line
    tokenizer = made("own.jinja").tokenizer
    assert prompt(tokenizer) == "<|im_start|>user\nDue?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_leaves_the_answers_beginning_out(name: str) -> None:
    """Mistral's prompts end with the question and have nothing to add."""
    assert ChatTemplate(FAMILIES[name].tokenizer()).abilities.header == ""


def test_arguments_are_defaults_of_the_template(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    on, off = prompt(tokenizer), prompt(tokenizer, enable_thinking=False)
    settled(tokenizer, tmp_path, chat_arguments={"enable_thinking": False})
    assert prompt(tokenizer) == off != on
    assert prompt(tokenizer, enable_thinking=True) == on
    stops = [tokenizer.eos_token_id]
    assert tokenizer.decode(Prompts(tokenizer, stops).ids(ASKED)) == off
    asked = Prompts(tokenizer, stops).ids(ASKED, arguments={"enable_thinking": True})
    assert tokenizer.decode(asked) == on


@pytest.mark.parametrize(
    "value", [True, False, 3, 0.5, "low", 'quo"te\n', "{{ 1 }}", "%}"], ids=repr
)
def test_a_default_is_the_value_itself(value: Any) -> None:
    """Whatever the template begins with, nothing but the value is added."""
    tokenizer = FAMILIES["chatml"].tokenizer()
    for start in ("\n", "  ", "{%- if true -%}x{%- endif -%}\n"):
        source = start + "{{ given }}|{{ given is string }}"
        tokenizer.chat_template = source
        wanted = tokenizer.apply_chat_template(ASKED, tokenize=False, given=value)
        tokenizer.chat_template = with_defaults(source, {"given": value})
        assert tokenizer.apply_chat_template(ASKED, tokenize=False) == wanted


def test_an_argument_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    on = settled(FAMILIES["qwen3"].tokenizer(), tmp_path, chat_arguments={"enable_thinking": True})
    assert prompt(on) == prompt(on, enable_thinking=True)
    for arguments in ({"enable_thoughts": False}, {"messages": "x"}):
        with pytest.raises(RecipeError, match="does not use") as caught:
            settled(FAMILIES["qwen3"].tokenizer(), tmp_path, chat_arguments=arguments)
        assert "enable_thinking" in str(caught.value.why)
    with pytest.raises(RecipeError, match="'no'") as caught:
        settled(FAMILIES["qwen3"].tokenizer(), tmp_path, chat_arguments={"enable_thinking": "no"})
    assert caught.value.fix == "use true or false"
    bare = FAMILIES["qwen3"].tokenizer()
    bare.chat_template = None
    with pytest.raises(RecipeError, match="no chat template"):
        settled(bare, tmp_path, chat_arguments={"enable_thinking": False})


ROWS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}]}
    for n in range(6)
]


def reasoned(count: int) -> list[dict[str, Any]]:
    """The rows, `count` of them with reasoning."""
    rows = [{"messages": [dict(turn) for turn in row["messages"]]} for row in ROWS]
    for row in rows[:count]:
        row["messages"][1]["reasoning_content"] = "It is so."
    return rows


@pytest.mark.parametrize(("count", "sent"), [(0, False), (2, False), (5, True)])
def test_what_most_rows_have_is_sent_by_default(
    make_recipe: Callable[..., Path], count: int, sent: bool
) -> None:
    data = {"template": "auto", "eval": 0}
    model = {"chat_template": "qwen3"}
    made = planned(make_recipe(data_rows=reasoned(count), data=data, model=model))
    assert prompt(made.tokenizer) == prompt(made.tokenizer, enable_thinking=sent)
    value = made.values["model.chat_arguments"]
    assert value.value == ({} if sent else {"enable_thinking": False}) or value.value is None
    assert made.prepared.report["rows_with_reasoning"] == count
    assert (made.values["data.reasoning"].value == "learn") == (count > 0)


def test_what_the_recipe_says_is_sent_whatever_the_rows_have(
    make_recipe: Callable[..., Path],
) -> None:
    model = {"chat_template": "qwen3", "chat_arguments": {"enable_thinking": False}}
    data = {"template": "auto", "eval": 0}
    made = planned(make_recipe(data_rows=reasoned(6), data=data, model=model))
    assert prompt(made.tokenizer) == prompt(made.tokenizer, enable_thinking=False)
    # Its rows are trained as what they are, and that comes first.
    assert made.warnings[0] == (
        "model.chat_arguments: chat, serve and the artefacts will send enable_thinking=false, but "
        "most answers are trained with enable_thinking=true, by whether they have reasoning (6 of "
        "6 rows): leave enable_thinking out, or set data.reasoning: drop"
    )
    row = made.prepared.train[0]
    text = made.tokenizer.decode(row.input_ids)
    assert "<|im_start|>assistant\n<think>\nIt is so.\n</think>\n\n0.<|im_end|>" in text


@pytest.mark.parametrize(
    ("count", "value", "reasoning", "warned"),
    [
        (4, False, "auto", True),
        (4, False, "drop", False),
        (4, False, "context", True),
        (4, True, "auto", False),
        (2, False, "auto", False),
        (0, True, "auto", True),
    ],
)
def test_arguments_that_most_rows_contradict_come_first(
    make_recipe: Callable[..., Path], count: int, value: bool, reasoning: str, warned: bool
) -> None:
    """In a plan and in the preview; what the warning says to leave out ends it."""
    model: dict[str, Any] = {"chat_template": "qwen3", "chat_arguments": {"enable_thinking": value}}
    data = {"template": "auto", "eval": 0, "reasoning": reasoning}
    recipe = make_recipe(data_rows=reasoned(count), data=data, model=model)
    made = planned(recipe)
    first = made.warnings[0]
    assert first.startswith("model.chat_arguments: ") == warned
    assert prompt(made.tokenizer) == prompt(made.tokenizer, enable_thinking=value)
    base = ground.open_recipe_and_base(recipe_load.load(recipe, verb="sft"), str, None)
    shown, _ = plan_data.preview(base, ground.room(base), 1)
    assert shown.report["warnings"][:1] == made.warnings[:1] or not warned
    if warned:
        assert (", or set data.reasoning: drop" in first) == (not value)
        del model["chat_arguments"]
        again = planned(make_recipe(data_rows=reasoned(count), data=data, model=model))
        assert not again.warnings[0].startswith("model.chat_arguments: ")


def test_another_argument_of_the_recipe_leaves_that_of_reasoning_to_the_rows(
    make_recipe: Callable[..., Path],
) -> None:
    """Who sets the effort has not said that answers without reasoning are asked for with it."""
    source = bundled_chats.text("qwen3")
    recipe = make_recipe(
        data_rows=reasoned(0),
        data={"template": "auto", "eval": 0},
        model={"chat_template": "own.jinja", "chat_arguments": {"effort": "low"}},
    )
    (recipe.parent / "own.jinja").write_text("{{- effort | default('') -}}" + source, "utf-8")
    made = planned(recipe)
    assert prompt(made.tokenizer) == prompt(made.tokenizer, enable_thinking=False)
    assert prompt(made.tokenizer).startswith("low<|im_start|>")


def test_the_plan_says_how_rows_without_reasoning_are_asked(
    make_recipe: Callable[..., Path],
) -> None:
    data, model = {"template": "auto", "eval": 0}, {"chat_template": "qwen3"}
    made = planned(make_recipe(data_rows=reasoned(5), data=data, model=model))
    said = made.values["data.reasoning"].origin
    assert "5 of 6 rows have some; 1 without: enable_thinking=false when sampling" in said


def test_plain_prompts_are_sent_plain(make_recipe: Callable[..., Path]) -> None:
    """D6: `data.render: raw` trains a prompt that chat, serve and every artefact send."""
    for tokenizer in ("chatml", "plain", "bos"):
        recipe = make_recipe(
            tokenizer=tokenizer,
            data_rows=ROWS,
            data={"template": "auto", "render": "raw", "eval": 0},
        )
        made = planned(recipe)
        for row, number in zip(made.prepared.train, range(6), strict=True):
            first = row.supervised.index(True)
            asked = [{"role": "user", "content": f"{number}?"}]
            sent = Prompts(made.tokenizer, list(made.stop_ids)).ids(asked)
            assert sent == row.input_ids[:first]


def test_the_chosen_template_is_recorded(make_recipe: Callable[..., Path]) -> None:
    made = planned(make_recipe(model={"chat_template": "qwen3"}))
    assert made.prepared.report["chat_template_origin"] == "model.chat_template: qwen3"
    chat = ChatTemplate(made.tokenizer)
    assert chat.abilities.switch == "enable_thinking"
    assert isinstance(made.prepared.report["chat_template_sha256"], str)


@pytest.mark.parametrize("render", ["auto", "raw"])
@pytest.mark.parametrize("learn", ["answers", "all"])
def test_the_system_turn_of_the_recipe_is_sent_by_default(
    make_recipe: Callable[..., Path], tmp_path: Path, render: str, learn: str
) -> None:
    """By whoever renders the saved template, Ollama's Modelfile among them; a system turn that is
    given takes its place."""
    more = {"messages": [*ROWS[0]["messages"], {"role": "user", "content": "And?"}]}
    data = {"template": "auto", "render": render, "learn": learn, "system": "Be\nbrief.", "eval": 0}
    made = planned(make_recipe(data_rows=[*ROWS, more], data=data))
    made.tokenizer.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    asked = [{"role": "user", "content": "0?"}]
    text = made.tokenizer.decode(made.prepared.train[0].input_ids)
    sent = saved.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert "Be\nbrief." in sent
    assert text.startswith(sent)
    own = [{"role": "system", "content": "Be long."}, *asked]
    other = saved.apply_chat_template(own, add_generation_prompt=True, tokenize=False)
    assert other == sent.replace("Be\nbrief.", "Be long.")
    if render == "auto":
        assert "Be\nbrief." in modelfile.text("x.gguf", saved, [], 64)
    kinds = {each.what for each in made.prepared.sent.trained}
    assert kinds == {"a last turn"} | ({"a turn in the middle"} if learn == "all" else set())


def test_a_prompt_that_differs_without_its_system_turn_stops_the_plan(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate asks without the turn that is sent by default."""
    monkeypatch.setattr("tuner.plan.data.with_system", lambda source, text: source)
    recipe = make_recipe(
        data_rows=ROWS, data={"template": "auto", "system": "Be brief.", "eval": 0}
    )
    with pytest.raises(DataError, match="is not the prompt that is sent"):
        planned(recipe)


def test_a_plain_rendering_needs_no_template(make_recipe: Callable[..., Path]) -> None:
    recipe = make_recipe(model={"chat_template": "qwen3"}, data={"render": "raw"})
    with pytest.raises(TunerError, match=r"data\.render: raw"):
        planned(recipe)


def test_a_prompt_that_is_not_sent_stops_the_plan(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3, with both prompts; here the tokenizer is given another template than was trained."""
    rows = [*ROWS, {"messages": [*ROWS[0]["messages"], *ROWS[1]["messages"]]}]
    recipe = make_recipe(data_rows=rows, data={"template": "auto", "eval": 0})
    made = planned(recipe)
    assert {each.what for each in made.prepared.sent.trained} == {
        "a last turn",
        "a later turn",
        "a turn in the middle",
    }
    other, own = "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}", made.tokenizer
    given = with_defaults
    monkeypatch.setattr(
        "tuner.plan.data.with_defaults",
        lambda source, arguments: (
            other if source == own.chat_template else given(source, arguments)
        ),
    )
    with pytest.raises(DataError, match="not the prompt that is sent") as caught:
        planned(recipe)
    assert "trained '<|im_start|>user\\n0?<|im_end|>" in str(caught.value.why)
    assert "sent    '0? '" in str(caught.value.why)
    # With the template that the error names, the plan goes on: only the base's own is spoiled here.
    key, name = re.findall(r"model\.(\w+): (\w+)", caught.value.fix)[0]
    data = {"template": "auto", "eval": 0}
    fixed = planned(make_recipe(data_rows=rows, data=data, model={key: name}))
    assert {each.what for each in fixed.prepared.sent.trained} >= {"a last turn"}
