"""Which tokens are learned: M01 to M08 and M14."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace

from tests.tokenizers import BOS_TEMPLATE, CHATML_TEMPLATE, make_tokenizer
from tuner.data.rows.dialogue import Dialogue
from tuner.data.rows.rendered import Rendered
from tuner.data.sft import SftData
from tuner.data.tokens.encode import Encoder, tokens_of
from tuner.data.tokens.example import Example
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

Turns = Sequence[tuple[str, str]]


def prepared(folder: Path, rows: Sequence[Any], tokenizer: Any, **keys: Any) -> Prepared:
    """Prepare rows without an eval split."""
    context = keys.pop("context", 2048)
    stop_ids, earlier = keys.pop("stop_ids", ()), keys.pop("earlier", False)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    data = DataSection(**({"train": ["rows.jsonl"], "eval": 0} | keys))
    inputs = Inputs(data, tokenizer, folder, 7, context, stop_ids, earlier_turns=earlier)
    return SftData(inputs).prepare()


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def learned(example: Example, tokenizer: Any) -> list[str]:
    """The supervised stretches of an example, decoded."""
    ids: list[list[int]] = [[]]
    for index, flag in zip(example.input_ids, example.supervised, strict=True):
        if flag:
            ids[-1].append(index)
        elif ids[-1]:
            ids.append([])
    return [tokenizer.decode(each) for each in ids if each]


KINDS = ("plain", "eospad", "bos", "chatml")
FORMATS: dict[str, dict[str, Any]] = {
    "text": {"text": "The rent is due."},
    "pair": {"prompt": "When is the rent due?", "completion": "On the first day."},
    "chat": chat(("user", "When?"), ("assistant", "Now."), ("user", "So?"), ("assistant", "Yes.")),
}


@pytest.mark.parametrize("render", ["auto", "raw"])
@pytest.mark.parametrize("row", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_stop_token_ends_every_example(
    tmp_path: Path, kind: str, row: str, render: str
) -> None:
    """M02, M01: exactly one terminal eos, supervised, also where pad is eos."""
    tokenizer = make_tokenizer(kind)
    example = prepared(tmp_path, [FORMATS[row]], tokenizer, render=render).train[0]
    turns = 2 if row == "chat" and render == "auto" else 1
    ends = [tokenizer.eos_token_id] * turns
    pairs = zip(example.input_ids, example.supervised, strict=True)
    assert [i for i, flag in pairs if flag and i == tokenizer.eos_token_id] == ends
    last = len(example.supervised) - example.supervised[::-1].index(True) - 1
    assert example.input_ids[last] == tokenizer.eos_token_id
    assert tokenizer.decode(example.input_ids[last + 1 :]).strip() == ""


def test_the_tokenizer_adds_eos_itself(tmp_path: Path) -> None:
    """M02: a tokenizer that appends eos does not make it two."""
    tokenizer = make_tokenizer("plain")
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair=None, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    for row in FORMATS.values():
        example = prepared(tmp_path, [row], tokenizer, render="raw").train[0]
        assert example.input_ids[:2].count(1) == 1
        assert example.input_ids[-2:].count(2) == 1
        assert example.supervised[-1]


def test_eos_that_stands_in_the_text_already(tmp_path: Path) -> None:
    """M02: where control tokens in text are allowed, BOS and EOS are not doubled."""
    tokenizer = make_tokenizer("bos")
    row = {"text": "<s>one two</s>"}
    ids = prepared(tmp_path, [row], tokenizer, special_tokens_in_text="allow").train[0].input_ids
    assert tokenizer.decode(ids) == "<s>one two</s>"
    assert len(ids) == len(tokenizer("one two").input_ids) + 1


def test_the_newline_after_the_stop_token_is_not_learned(tmp_path: Path) -> None:
    """M02: ChatML's `<|im_end|>` is in the mask, the newline is not; other stop ids count."""
    tokenizer = make_tokenizer("chatml")
    row = chat(("user", "a"), ("assistant", "b"))
    example = prepared(tmp_path, [row], tokenizer).train[0]
    assert learned(example, tokenizer) == ["b<|im_end|>"]
    assert tokenizer.decode(example.input_ids).endswith("b<|im_end|>\n")
    plain = make_tokenizer("chatml")
    plain.eos_token = "<|endoftext|>"
    stop = plain.convert_tokens_to_ids("<|im_end|>")
    example = prepared(tmp_path, [row], plain, stop_ids=[stop]).train[0]
    assert learned(example, plain) == ["b<|im_end|>"]
    example = prepared(tmp_path, [row], plain).train[0]
    assert learned(example, plain) == ["b<|im_end|>"]  # found by its place, too
    plain.chat_template = CHATML_TEMPLATE.replace("<|im_end|>", "")
    example = prepared(tmp_path, [row], plain).train[0]
    assert learned(example, plain) == ["b<|endoftext|>"]


def test_a_template_without_stop_token_gets_eos_once(tmp_path: Path) -> None:
    """M02: what the template forgets is appended to the last answer."""
    tokenizer = make_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    row = chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    example = prepared(tmp_path, [row], tokenizer).train[0]
    assert learned(example, tokenizer) == [" b", " d</s>"]
    assert tokenizer.decode(example.input_ids).endswith("assistant: d</s>")


def test_every_example_has_one_bos(tmp_path: Path) -> None:
    """M03: a template that renders BOS and a tokenizer that adds one make one together."""
    tokenizer = make_tokenizer("bos")
    bos = tokenizer.bos_token_id
    for template in (BOS_TEMPLATE, None):
        tokenizer.chat_template = template
        for row in FORMATS.values():
            for render in ("auto", "raw"):
                ids = prepared(tmp_path, [row], tokenizer, render=render).train[0].input_ids
                assert ids[0] == bos
                assert ids.count(bos) == 1
    rows = [FORMATS["pair"]] * 2 + [FORMATS["chat"]]
    result = prepared(tmp_path, rows, tokenizer, max_rows=1, draw="first")
    assert result.chat_template is not None
    assert result.chat_template.startswith("{{ bos_token }}")
    plain = make_tokenizer("plain")
    assert prepared(tmp_path, [FORMATS["text"]], plain).train[0].input_ids[0] != plain.bos_token_id
    template = prepared(tmp_path, [FORMATS["pair"]], plain).chat_template
    assert template
    assert "bos_token" not in template


def test_prompts_of_eval_rows_have_one_bos(tmp_path: Path) -> None:
    """M03: what generation starts from."""
    tokenizer = make_tokenizer("bos")
    rows = [{"prompt": f"Q {i}?", "completion": f"A {i}."} for i in range(4)]
    for render in ("chat", "raw"):
        result = prepared(tmp_path, rows, tokenizer, render=render, eval=2)
        for row in result.eval:
            assert row.prompt_ids[0] == tokenizer.bos_token_id
            assert row.prompt_ids.count(tokenizer.bos_token_id) == 1


CHATS: dict[str, tuple[Turns, list[str]]] = {
    "one turn": ((("user", "Hi"), ("assistant", "Hello.")), ["Hello.<|im_end|>"]),
    "three turns": (
        (
            *(("system", "Be brief."), ("user", "1"), ("assistant", "one")),
            *(("user", "2"), ("assistant", "two"), ("user", "3"), ("assistant", "three")),
        ),
        ["one<|im_end|>", "two<|im_end|>", "three<|im_end|>"],
    ),
    "answer stands in the question": (
        (("user", "Say yes, say assistant"), ("assistant", "yes")),
        ["yes<|im_end|>"],
    ),
    "trailing question": ((("user", "1"), ("assistant", "one"), ("user", "2")), ["one<|im_end|>"]),
}


@pytest.mark.parametrize("name", CHATS)
def test_exactly_the_answers_are_learned(tmp_path: Path, name: str) -> None:
    """M04, M05: a template without `{% generation %}`: contents and stop tokens, nothing else."""
    tokenizer = make_tokenizer("chatml")
    assert "generation %}" not in CHATML_TEMPLATE
    turns, expected = CHATS[name]
    example = prepared(tmp_path, [chat(*turns)], tokenizer).train[0]
    assert learned(example, tokenizer) == expected


def test_the_prompt_is_never_learned(tmp_path: Path) -> None:
    """M05: the unsupervised tokens are the prompt's, and other prompts change nothing else."""
    tokenizer = make_tokenizer("chatml")
    first, second = (
        prepared(tmp_path, [{"prompt": text, "completion": "Paris."}], tokenizer).train[0]
        for text in ("What is it?", "it is What?")
    )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is it?"}], add_generation_prompt=True
    )["input_ids"]
    assert first.input_ids[: len(prompt)] == prompt
    assert first.supervised.index(True) == len(prompt)
    assert learned(first, tokenizer) == learned(second, tokenizer) == ["Paris.<|im_end|>"]


def sentencepiece_like() -> Tokenizer:
    """A tokenizer in which the first word differs from the same word after a newline."""
    words = ["▁", "▁Answer", "Answer", ":", "▁x", "x", "\n", "<eos>"]
    letters = sorted(set("".join(words)) | set("0123456789abcdefghijklmnopqrstuvwxyzANSWERQ ?"))
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*words, *letters]))}
    merges = [("A", "n"), ("An", "s"), ("Ans", "w"), ("Answ", "e"), ("Answe", "r")]
    for merge in merges:
        vocabulary.setdefault("".join(merge), len(vocabulary))
    tokenizer = Tokenizer(BPE(vocabulary, [*merges, ("▁", "Answer")], unk_token="x"))
    tokenizer.pre_tokenizer = Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


def test_masks_do_not_search_for_tokens(tmp_path: Path) -> None:
    """M06: `Answer:` has other tokens after a newline; all 100 rows are masked rightly."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=sentencepiece_like(), eos_token="<eos>", pad_token="<eos>"
    )
    backend = tokenizer.backend_tokenizer
    assert backend.encode("Answer:").tokens[0] != backend.encode("x\nAnswer:").tokens[3]
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
        "{% else %}{{ '\nAnswer:' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nAnswer:' }}{% endif %}"
    )
    random_source = random.Random(1)
    rows = [
        {
            "prompt": "Answer: " * random_source.randint(0, 2) + f"q{i}",
            "completion": "".join(random_source.choices("abcx ", k=9)) + f"Answer:{i}",
        }
        for i in range(100)
    ]
    result = prepared(tmp_path, rows, tokenizer)
    for row, example in zip(rows, result.train, strict=True):
        text = f"{row['prompt']}\nAnswer:{row['completion']}<eos>"
        offsets = backend.encode(text).offsets
        border = len(row["prompt"]) + len("\nAnswer:")
        assert example.supervised == [end > border for _, end in offsets]


def test_a_token_with_any_answer_character_is_learned() -> None:
    """M07: ten thousand random borders, against the lengths of the tokens in bytes."""
    backend = make_tokenizer("plain").backend_tokenizer
    source = random.Random(7)
    words = ["foo", "bar", "foobar", " ", "  ", "\n", "the", " The", "é", "水", "🙂", "Paris", "."]
    checked = 0
    while checked < 10_000:
        text = "".join(source.choices(words, k=12))
        encoding = backend.encode(text, add_special_tokens=False)
        owner = []  # for every byte of the text, the token that holds it
        for index, token in enumerate(encoding.tokens):
            owner += [index] * len(token)
        starts = [len(text[:place].encode()) for place in range(len(text) + 1)]
        for _ in range(20):
            start, end = sorted(source.sample(range(len(text) + 1), 2))
            held = owner[starts[start] : starts[end]]
            assert tokens_of(encoding.offsets, (start, end)) == (held[0], held[-1] + 1)
            checked += 1


def test_a_token_across_the_border_is_learned(tmp_path: Path) -> None:
    """M07: `foo` and `bar` would share a token; but the prompt that is sent ends before `bar`, so
    the answer has tokens of its own, all of them learned."""
    tokenizer = make_tokenizer("plain")
    assert len(tokenizer(" foobar").input_ids) == 1
    row = {"prompt": " foo", "completion": "bar"}
    result = prepared(tmp_path, [row], tokenizer, render="raw")
    assert learned(result.train[0], tokenizer) == ["bar</s>"]
    rows = [{"prompt": f"{i} foo", "completion": "bar"} for i in range(4)]
    result = prepared(tmp_path, rows, tokenizer, render="raw", eval=2)
    assert learned(result.train[0], tokenizer) == ["bar</s>"]
    assert re.fullmatch(r"\d foo", tokenizer.decode(result.eval[0].prompt_ids))


def test_rows_that_lose_their_answer(tmp_path: Path) -> None:
    """M08: many such rows are an error, one of sixteen is dropped and counted."""
    tokenizer = make_tokenizer("chatml")
    long = {"prompt": "word " * 300, "completion": "five words are the answer"}
    short = {"prompt": "word", "completion": "five words are the answer"}
    with pytest.raises(DataError, match=r"16 of 16 training rows \(100%\)") as caught:
        prepared(tmp_path, [long] * 16, tokenizer, max_length=128, long="truncate")
    wanted = int(re.findall(r"data.max_length: (\d+)", caught.value.fix)[0])
    prepared(tmp_path, [long] * 16, tokenizer, max_length=wanted, long="truncate")
    result = prepared(
        tmp_path, [short] * 9 + [long] + [short] * 6, tokenizer, max_length=128, long="truncate"
    )
    alone = prepared(tmp_path, [short] * 15, tokenizer, max_length=128, long="truncate")
    assert result.report["dropped_no_answer_left"] == 1
    assert result.report["rows_train"] == 15
    assert result.report["tokens_sha256"] == alone.report["tokens_sha256"]
    assert any("1 row dropped" in text for text in result.report["warnings"])
    with pytest.raises(DataError, match=r"2 of 16"):
        prepared(tmp_path, [long] * 2 + [short] * 14, tokenizer, max_length=128, long="truncate")


def test_the_pad_token_in_text_is_learned(tmp_path: Path) -> None:
    """M14: an answer with the pad token's text is learned to its last token."""
    for kind in KINDS:
        tokenizer = make_tokenizer(kind)
        text = f"a {tokenizer.pad_token} b"
        for policy in ("literal", "allow"):
            row = {"prompt": "x", "completion": text}
            result = prepared(tmp_path, [row], tokenizer, special_tokens_in_text=policy)
            assert learned(result.train[0], tokenizer)[0].startswith(text)


def test_preview_shows_the_supervised_spans(tmp_path: Path) -> None:
    """M05: `tuner data preview` marks what is learned."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(FORMATS["pair"]) + "\n" * 2)
    tokenizer = make_tokenizer("chatml")
    data = DataSection(train=("rows.jsonl",), eval=0, long="truncate")
    whole = 2048
    for truncated in (False, True):
        _, found = SftData(Inputs(data, tokenizer, tmp_path, 1, whole)).preview(1)
        assert len(found) == 1
        assert (found[0].row, found[0].truncated) == ("rows.jsonl:1", truncated)
        shown = "".join(part.text for part in found[0].parts if part.learned)
        assert shown == "On the first day." + ("" if truncated else "<|im_end|>")
        whole = found[0].tokens - 2


@pytest.mark.parametrize("head", ["classes", "sequence"])
def test_the_preview_shows_what_the_head_reads_and_learns(head: str, tmp_path: Path) -> None:
    """Of a classifier the class, of an encoder-decoder what it writes; no chat for either."""
    row = {"instruction": "Is it good?", "input": "", "output": "positive"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    data = DataSection(train=("rows.jsonl",), eval=0, labels=("positive", "negative"))
    inputs = Inputs(data, make_tokenizer("chatml"), tmp_path, 1, 99)
    _, (found,) = SftData(inputs, head).preview(1)
    text = "".join(part.text for part in found.parts)
    learned = "".join(part.text for part in found.parts if part.learned)
    assert learned.removesuffix("<|im_end|>") == "positive"
    assert text.startswith("Is it good?")
    assert "user" not in text


def test_trimmed_offsets_keep_every_token_of_an_answer() -> None:
    """M07: byte-level offsets leave out spaces; tokens of spaces alone are learned too."""
    encoder = Encoder(make_tokenizer("bos"), "literal", None)
    text = "a:   b  c   "
    example = Rendered(Dialogue("r"), text, ((2, len(text)),), raw=True, append_eos=True)
    encoded = encoder.encode([example])[0]
    assert not isinstance(encoded, Exception)
    assert encoded.supervised == [False] * 3 + [True] * (len(encoded.ids) - 3)
