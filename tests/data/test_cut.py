"""What a row over `data.max_length` loses: never its answer, unless the recipe says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import THINK_TEMPLATE, make_tokenizer
from tuner.data.preferences import PreferenceData
from tuner.data.prompts import PromptData
from tuner.data.rows.dialogue import Dialogue
from tuner.data.sft import SftData
from tuner.data.tokens.example import Example
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

SAID = "the yard moved cork and oil to pier six on day seven with iron and salt"
WORDS = SAID.split(" ")


def words(count: int, seed: int = 0) -> str:
    return " ".join(WORDS[(n * n + seed) % len(WORDS)] + str(n % 10) for n in range(count))


def pipeline(folder: Path, rows: Sequence[Any], **keys: Any) -> SftData:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    head, kind = keys.pop("head", "language"), keys.pop("kind", "chatml")
    tokenizer, context = make_tokenizer(kind), keys.pop("context", 4096)
    if template := keys.pop("chat", None):
        tokenizer.chat_template = template
    data = DataSection(**{"train": ["rows.jsonl"], "eval": 0, **keys})
    return SftData(Inputs(data, tokenizer, folder, 7, context), head)


def prepared(folder: Path, rows: Sequence[Any], **keys: Any) -> Prepared:
    return pipeline(folder, rows, **keys).prepare()


def text(example: Example, kind: str = "chatml") -> str:
    return str(make_tokenizer(kind).decode(example.input_ids))


def learned(example: Example) -> str:
    pairs = zip(example.input_ids, example.supervised, strict=True)
    return str(make_tokenizer("chatml").decode([n for n, target in pairs if target]))


def passage(size: int, answer: str = "It is the sixth pier.") -> dict[str, str]:
    return {"context": words(size), "question": "Which pier was it?", "answer": answer}


def test_a_document_loses_its_end_and_the_answer_stays(tmp_path: Path) -> None:
    """D15: held-out prompts alike; both are as long as they may be, and end with a word."""
    rows = [passage(size, f"Answer {size}.") for size in (5, 20, 900, 901, 902, 903)]
    result = prepared(tmp_path, rows, max_length=300, eval=2, split="row")
    examples = [*result.train, *(row.example for row in result.eval)]
    assert len(examples) == 6
    cut = [each for each in examples if len(each.input_ids) > 250]
    assert len(cut) == 4
    for example in cut:
        assert 285 <= len(example.input_ids) <= 300
        said = text(example)
        kept = said.partition("Text:\n")[2].partition("\n\nQuestion: Which pier was it?")[0]
        assert words(903).startswith(kept + " ")
        assert learned(example).startswith("Answer 90")
        assert learned(example).endswith(".<|im_end|>")
    for row in result.eval:
        assert row.prompt_ids == row.example.input_ids[: len(row.prompt_ids)]
        assert "Question: Which pier was it?" in make_tokenizer("chatml").decode(row.prompt_ids)
    report = result.report
    assert report["documents_cut"] + report["eval_documents_cut"] == 4
    assert report["truncated_rows"] == report["left_out_too_long"] == 0
    assert report["supervised_tokens_cut_share"] == 0
    assert f"{report['documents_cut']} row" in report["warnings"][0]


def test_a_cut_document_is_cut_the_same_way_again(tmp_path: Path) -> None:
    rows = [passage(900)]
    one, other = (prepared(tmp_path, rows, max_length=300).report for _ in range(2))
    assert one == other
    made, shown = pipeline(tmp_path, rows, max_length=300).preview(1)
    assert shown[0].truncated
    assert "without the end of their document" in made.report["warnings"][0]


@pytest.mark.parametrize("thinks", [False, True])
def test_a_chat_loses_its_oldest_turns(tmp_path: Path, thinks: bool) -> None:
    """D15: as few as necessary; the system turn stays, and what is no longer learned is counted."""
    turns = [{"role": "system", "content": "Be brief."}]
    for n in range(10):
        turns += [{"role": "user", "content": f"Ask {n}: {words(20, n)}"}]
        turns += [{"role": "assistant", "content": f"Said {n}."}]
    chat = THINK_TEMPLATE if thinks else None
    result = prepared(tmp_path, [{"messages": turns}], max_length=400, chat=chat)
    whole = prepared(tmp_path, [{"messages": turns}], chat=chat)
    said = text(result.train[-1])
    assert said.count("Be brief.") == 1
    first = next(n for n in range(10) if f"Ask {n}:" in said)
    assert first > 0
    assert all(f"Ask {n}:" in said for n in range(first, 10))
    assert "Said 9." in learned(result.train[-1])
    # One turn more would not have fitted.
    assert 280 < len(result.train[-1].input_ids) <= 400
    report = result.report
    assert report["rows_without_oldest_turns"] == 1
    lost = sum(each.num_targets for each in whole.train)
    lost -= sum(each.num_targets for each in result.train)
    assert report["supervised_tokens"] + lost == whole.report["supervised_tokens"]
    assert (report["supervised_tokens_cut_share"] > 0) == (lost > 0)


def test_history_goes_before_the_input(tmp_path: Path) -> None:
    row = {
        "instruction": "Summarise.",
        "input": words(200),
        "output": "It moved.",
        "history": [["Hello?", "Hello."]],
    }
    (example,) = prepared(tmp_path, [row], max_length=300).train
    assert "Hello" not in text(example)
    assert text(example).count("Summarise.\n\nthe0 yard1") == 1
    assert learned(example) == "It moved.<|im_end|>"


def test_rows_of_which_only_the_answer_could_be_cut(tmp_path: Path) -> None:
    """D15: left out if they are few, refused if not; each way out that is printed works."""
    long = {"prompt": words(80), "completion": "So it is."}
    few = [{"prompt": f"Ask {n}", "completion": "Yes."} for n in range(19)]
    result = prepared(tmp_path, [*few, long], max_length=100)
    assert len(result.train) == 19
    assert result.report["left_out_too_long"] == 1
    assert result.report["warnings"][0].startswith("1 row left out: longer than 100 tokens")
    rows = [*few[:3], long]
    with pytest.raises(DataError, match="1 of 4 rows would lose a part of the answer") as caught:
        prepared(tmp_path, rows, max_length=100)
    ways = [
        each.partition(" (")[0] for each in caught.value.fix.removeprefix("set ").split(", or ")
    ]
    assert len(ways) >= 3
    for way in ways:
        key, _, value = way.removeprefix("data.").partition(": ")
        keys = {"max_length": 100, key: int(value) if value.isdigit() else value}
        assert len(prepared(tmp_path, rows, **keys).train) == (3 if value == "drop" else 4)


def test_the_answer_is_cut_where_the_recipe_says_so(tmp_path: Path) -> None:
    """As in earlier versions, up to half of it."""
    rows = [passage(40, words(50))]
    most = int(0.8 * prepared(tmp_path, rows).report["longest"])
    result = prepared(tmp_path, rows, max_length=most, cut="answer")
    assert result.report["truncated_rows"] == 1
    assert len(result.train[0].input_ids) == most
    with pytest.raises(DataError, match="more than half"):
        prepared(tmp_path, [passage(400)], max_length=300, cut="answer")
    assert not prepared(tmp_path, [passage(400)], max_length=300).report["truncated_rows"]


def test_a_row_is_left_out_where_the_recipe_says_so(tmp_path: Path) -> None:
    rows = [passage(400), passage(10), passage(500)]
    assert len(prepared(tmp_path, rows, max_length=300, cut="drop").train) == 1
    with pytest.raises(DataError, match="2 of 2 rows are longer"):
        prepared(tmp_path, rows[::2], max_length=300, cut="drop")


def test_a_document_by_a_template_of_ones_own(tmp_path: Path) -> None:
    own = {
        "name": "own",
        "description": "a paper and its verdict",
        "columns": {"required": ["paper", "notes", "verdict"]},
        "document": ["paper"],
        "turns": [
            {"role": "user", "content": "{{ notes }}\n{{ paper.strip() }}\nVerdict?"},
            {"role": "assistant", "content": "{{ verdict }}"},
        ],
    }
    (tmp_path / "own.yaml").write_text(json.dumps(own), "utf-8")
    row = {"paper": f"  {words(300)}\n", "notes": words(20, 3), "verdict": "Good."}
    (example,) = prepared(tmp_path, [row], template="own.yaml", max_length=300).train
    assert words(20, 3) in text(example)
    assert text(example).endswith("\nVerdict?<|im_end|>\n<|im_start|>assistant\nGood.<|im_end|>\n")
    own["document"] = ["papers"]
    (tmp_path / "own.yaml").write_text(json.dumps(own), "utf-8")
    with pytest.raises(DataError, match="reads columns"):
        prepared(tmp_path, [row], template="own.yaml")


@pytest.mark.parametrize("head", ["sequence", "classes"])
def test_other_heads_lose_the_document_too(tmp_path: Path, head: str) -> None:
    rows = [passage(size, "yes" if size % 2 else "no") for size in (300, 301, 5, 6)]
    kind = "seq2seq" if head == "sequence" else "chatml"
    keys: dict[str, Any] = {"kind": kind, "head": head, "labels": ["yes", "no"]}
    result = prepared(tmp_path, rows, max_length=200, **keys)
    assert len(result.train) == 4
    for example in result.train:
        assert len(example.input_ids) <= 200
        assert "Which pier was it?" in text(example, kind)
        assert example.target if head == "sequence" else example.label in (0, 1)
    assert result.report["documents_cut"] == 2
    before = prepared(tmp_path, rows, max_length=200, cut="answer", long="truncate", **keys)
    assert "Which pier" not in text(before.train[0], kind)


def test_an_answer_that_an_encoder_decoder_cannot_write_is_left_out(tmp_path: Path) -> None:
    rows = [passage(5, words(200)), *(passage(n) for n in range(5, 25))]
    result = prepared(tmp_path, rows, max_length=200, kind="seq2seq", head="sequence")
    assert result.report["left_out_too_long"] == 1


def test_every_label_fits_behind_a_cut_prompt(tmp_path: Path) -> None:
    labels = ["no", "a much longer label than the other one"]
    rows = [{"text": words(300, n), "label": labels[n % 2]} for n in range(8)]
    result = prepared(tmp_path, rows, max_length=150, eval=4)
    assert [len(row.options) for row in result.eval] == [2] * 4
    assert all(len(each.input_ids) <= 150 for row in result.eval for each in row.options)


def test_plain_text_becomes_pieces_by_itself(tmp_path: Path) -> None:
    """Nothing is lost, however long a line is."""
    whole = "word " * 40_000 + "last"
    result = prepared(tmp_path, [{"text": whole}, {"text": "short"}], context=512)
    ids = [token for piece in result.train[:-1] for token in piece.input_ids]
    assert make_tokenizer("chatml").decode(ids) == whole + "<|im_end|>"
    assert result.report["supervised_tokens_cut_share"] == 0
    assert result.report["rows_cut_while_reading"] == []
    mixed = [{"prompt": words(80), "completion": "Yes."}]
    (tmp_path / "chats.jsonl").write_text(json.dumps(mixed[0]) + "\n", "utf-8")
    both = prepared(
        tmp_path,
        [{"text": "word " * 300}] * 20,
        train=["rows.jsonl", "chats.jsonl"],
        max_length=100,
    )
    assert both.report["split_rows"] == 20
    assert both.report["left_out_too_long"] == 1


def test_max_length_follows_the_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {n}", "completion": words(n)} for n in range(1, 101)]
    report = prepared(tmp_path, rows).report
    longest = report["longest"]
    assert longest <= report["max_length"] < longest + 64
    assert report["max_length"] % 64 == 0
    assert prepared(tmp_path, rows, max_length="context").report["max_length"] == 4096
    assert prepared(tmp_path, rows, context=longest).report["max_length"] == longest


def test_max_length_is_the_length_of_a_share_of_the_rows(tmp_path: Path) -> None:
    """What the longest ones lose is cut as the recipe says, and counted."""
    rows = [passage(n) for n in range(1, 101)]
    whole = prepared(tmp_path, rows)
    lengths = sorted(len(each.input_ids) for each in whole.train)
    result = prepared(tmp_path, rows, max_length="95%")
    assert result.report["max_length"] == lengths[94]
    assert result.report["documents_cut"] == sum(each > lengths[94] for each in lengths) > 0
    assert result.report["supervised_tokens"] == whole.report["supervised_tokens"]
    assert result.report["tokens_sha256"] != whole.report["tokens_sha256"]


def test_preferences_are_not_cut(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(4)]
    made = pipeline(tmp_path, rows)
    report = PreferenceData(made.inputs).prepare().report
    assert report["max_length"] == 64
    for key, value in (("cut", "document"), ("max_length", "90%")):
        with pytest.raises(RecipeError, match=f"data.{key}: {value}, but .* never cut"):
            PreferenceData(pipeline(tmp_path, rows, **{key: value}).inputs)


def test_prompts_of_a_policy_lose_the_same(tmp_path: Path) -> None:
    """Their document's end or oldest turns; a response has its room, and what has neither is left
    out as ever."""
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": f"Turn {n}: {words(12, n)}"}
        for n in range(9)
    ]
    rows = [
        *({"context": words(size), "question": "Which pier?", "answer": ""} for size in (9, 400)),
        *({"prompt": f"Ask {n}"} for n in range(10)),
    ]
    decode = make_tokenizer("chatml").decode

    def prompts(*given: Any, **keys: Any) -> Prepared:
        made = pipeline(tmp_path, given, max_length=200, **keys)
        return PromptData(made.inputs, 50).prepare()

    result = prompts({**rows[0], "answer": "x"}, {**rows[1], "answer": "x"})
    short, cut = (decode(each.input_ids) for each in result.train)
    assert words(9) in short
    assert "Question: Which pier?" in cut
    assert 180 < len(result.train[1].input_ids) <= 200
    assert result.report["documents_cut"] == 1
    assert result.report["warnings"][0].startswith("1 row without the end of their document")
    chat = prompts({"messages": turns}, {"messages": turns[:1]})
    assert "Turn 8:" in decode(chat.train[0].input_ids)
    assert "Turn 0:" not in decode(chat.train[0].input_ids)
    assert chat.report["rows_without_oldest_turns"] == 1
    assert len(chat.train[0].messages) < 9
    left = prompts(*rows[2:], {"prompt": words(200)})
    assert (left.report["dropped_too_long"], len(left.train)) == (1, 10)
    whole = prompts(*rows[2:], {"prompt": words(200)}, cut="document")
    assert (whole.report["dropped_too_long"], len(whole.train)) == (0, 11)
    dropped = prompts(
        *({"messages": turns[:1]} for _ in range(10)), {"messages": turns}, cut="drop"
    )
    assert dropped.report["dropped_too_long"] == 1
    with pytest.raises(RecipeError, match="answers are never cut"):
        prompts({"prompt": "x"}, cut="answer")


def test_a_document_that_is_not_there_as_it_is_stays(tmp_path: Path) -> None:
    assert Dialogue("r", documents=("x",)).documents == ("x",)
    own = {
        "name": "own",
        "description": "shouted",
        "columns": {"required": ["text", "answer"]},
        "turns": [
            {"role": "user", "content": "{{ text | upper }}"},
            {"role": "assistant", "content": "{{ answer }}"},
        ],
    }
    (tmp_path / "own.yaml").write_text(json.dumps(own), "utf-8")
    rows = [{"text": words(300), "answer": "Good."}] * 2
    with pytest.raises(DataError, match="would lose a part") as caught:
        prepared(tmp_path, rows, template="own.yaml", max_length=200)
    assert "data.cut: document" in caught.value.fix
    cut = prepared(tmp_path, rows, template="own.yaml", max_length=200, cut="document")
    assert cut.report["documents_cut"] == 2
