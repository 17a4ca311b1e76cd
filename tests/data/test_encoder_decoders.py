"""What an encoder-decoder reads and writes, and tokenizers that need care."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, CTRLTokenizer, PreTrainedTokenizerFast

from tests.conftest import write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs
from tuner.errors import ModelError
from tuner.model import tokenizer as model_tokenizer
from tuner.model.base import Base
from tuner.recipe.schema import DataSection

ROWS = [
    {"prompt": "Name f", "completion": "ish"},
    {"prompt": "Say foo", "completion": "bar"},
    {"prompt": "Translate: The house.", "completion": "Das Haus  ist\nwunderbar."},
    {"prompt": "q", "completion": " 10"},
    {"prompt": "Say it", "completion": "literal </s> text"},
]


class Sentences(PreTrainedTokenizerFast):
    """T5's kind of tokenizer: a word begins with the space before it."""

    ends = "$A </s>"

    def __init__(self) -> None:
        letters = [*string.ascii_letters, *string.digits, *string.punctuation]
        words = ["▁Das", "▁Haus", "Haus", "fish", "ish", "foobar", "bar", "▁bar"]
        scores = [(each, 0.0) for each in ("<pad>", "</s>", "<unk>", "<en>", "<de>")]
        scores += [("▁", -2.0), *((each, -3.0) for each in letters)]
        scores += [(each, -1.0) for each in words]
        tokenizer = Tokenizer(Unigram(scores, unk_id=2))
        tokenizer.pre_tokenizer = Metaspace(prepend_scheme="always")
        tokenizer.decoder = MetaspaceDecoder(prepend_scheme="always")
        tokenizer.post_processor = self.around(self.ends)
        names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        super().__init__(
            tokenizer_object=tokenizer, additional_special_tokens=["<en>", "<de>"], **names
        )

    @staticmethod
    def around(single: str) -> TemplateProcessing:
        known = [("</s>", 1), ("<en>", 3), ("<de>", 4)]
        return TemplateProcessing(single=single, special_tokens=known)


class Languages(Sentences):
    """NLLB's kind: the language comes first, that of targets is another one."""

    ends = "<en> $A </s>"

    def _switch_to_target_mode(self) -> None:
        self.backend_tokenizer.post_processor = self.around("<de> $A </s>")

    def _switch_to_input_mode(self) -> None:
        self.backend_tokenizer.post_processor = self.around("<en> $A </s>")


def prepared(folder: Path, rows: list[dict[str, str]], tokenizer: Any, head: str) -> list[Any]:
    write_rows(folder / "train.jsonl", rows)
    data = DataSection(train=("train.jsonl",), eval=0)
    return list(SftData(Inputs(data, tokenizer, folder, 7, 512), head).prepare().train)


def byt5() -> Any:
    return model_tokenizer.with_offsets(ByT5Tokenizer(), Path())


KINDS = {
    "sentences": Sentences,
    "languages": Languages,
    "bytes": byt5,
    "pieces": lambda: make_tokenizer("seq2seq"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_is_the_answer_alone(kind: str, tmp_path: Path) -> None:
    """As the tokenizer's own target mode has it: nothing of the prompt, a word's start, its
    language; the prompt is what the tokenizer makes of it."""
    tokenizer: Any = KINDS[kind]()
    examples = prepared(tmp_path, ROWS[:4], tokenizer, "sequence")
    for row, example in zip(ROWS, examples, strict=False):
        assert list(example.target) == tokenizer(text_target=row["completion"])["input_ids"]
        assert tokenizer.decode(example.input_ids, skip_special_tokens=True) == row["prompt"]
        assert example.input_ids == tokenizer(row["prompt"])["input_ids"]


def test_special_tokens_in_an_answer_stay_text(tmp_path: Path) -> None:
    """A literal end token in a row does not end the answer."""
    tokenizer = make_tokenizer("seq2seq")
    (example,) = prepared(tmp_path, ROWS[4:], tokenizer, "sequence")
    assert example.target.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(example.target) == "literal </s> text</s>"


def test_earlier_answers_are_read_not_written(tmp_path: Path) -> None:
    """Of a conversation the last answer is the target."""
    turns = [("user", "Hi"), ("assistant", "foo"), ("user", "And?"), ("assistant", "bar")]
    row: Any = {"messages": [{"role": role, "content": text} for role, text in turns]}
    tokenizer = make_tokenizer("seq2seq")
    (example,) = prepared(tmp_path, [row], tokenizer, "sequence")
    assert tokenizer.decode(example.target) == "bar</s>"
    assert "foo" in tokenizer.decode(example.input_ids)


def test_a_tokenizer_of_bytes_gets_offsets(tmp_path: Path) -> None:
    """ByT5's ids, also of its own tokens, as it is saved and loaded again."""
    slow, fast = ByT5Tokenizer(), byt5()
    texts = ["Das Haus  ist\nwunderbar. äöü 漢字", "a</s>b <extra_id_0> c", "", " x", "\x7f<pad>"]
    fast.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in texts:
        assert fast(text)["input_ids"] == slow(text)["input_ids"] == again(text)["input_ids"]
        assert fast.decode(fast(text)["input_ids"]) == slow.decode(slow(text)["input_ids"])
    assert (fast.eos_token_id, fast.pad_token_id, len(fast)) == (1, 0, len(slow))
    assert fast("äb", return_offsets_mapping=True)["offset_mapping"][:3] == [(0, 1), (0, 1), (1, 2)]


def test_another_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    """By its name, when the base is opened."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<unk>": 1, "</s>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    CTRLTokenizer.from_pretrained(tmp_path, eos_token="</s>").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ctrl"}))
    base = Base("old", "folder", tmp_path, {"model_type": "ctrl"})
    with pytest.raises(ModelError, match="has no fast tokenizer") as caught:
        model_tokenizer.load_tokenizer(base)
    assert "CTRLTokenizer" in caught.value.why
    assert "tokenizer.json" in caught.value.fix


@pytest.mark.parametrize("answer", ["Hello", " Hello", "\tHello", "\n Hello"])
def test_a_token_that_takes_white_space_along_is_not_learned(answer: str, tmp_path: Path) -> None:
    """Phi-3's header strips what follows it; it belongs to the prompt all the same."""
    tokenizer = make_tokenizer("chatml")
    header = AddedToken("<|assistant|>", special=True, rstrip=True)
    tokenizer.add_tokens([header], special_tokens=True)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + "
        "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    row: Any = {"messages": turns}
    (example,) = prepared(tmp_path, [row], tokenizer, "language")
    pairs = list(zip(example.input_ids, example.supervised, strict=True))
    learned = tokenizer.decode([token for token, wanted in pairs if wanted])
    assert learned == "Hello<|im_end|>"
    assert (tokenizer.convert_tokens_to_ids("<|assistant|>"), False) in pairs
