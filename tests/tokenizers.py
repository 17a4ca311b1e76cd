"""Tiny tokenizers made in code: byte-level BPE, at most 512 tokens, no file and no network.

Kinds: `plain` (pad, no chat template), `eospad` (pad is eos), `bos` (a post-processor puts BOS
first), `chatml` (ChatML with `<|im_start|>` and `<|im_end|>`), `encoder` (`[CLS]` and `[SEP]`, no
eos), `seq2seq` (`</s>` behind every text). `THINK_TEMPLATE` and `BOS_TEMPLATE` are chat templates
to set on any of them.
"""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

KINDS = ("plain", "eospad", "bos", "chatml", "encoder", "seq2seq")
VOCAB_SIZE = 512

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BOS_TEMPLATE = "{{ bos_token }}" + CHATML_TEMPLATE.replace("<|im_end|>", "</s>").replace(
    "<|im_start|>", "## "
)
# Drops the reasoning of every answer but the last, and gives the last one an empty block if it
# has none: what reasoning models do, and why one rendering cannot serve every turn.
THINK_TEMPLATE = (
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' %}"
    "{% set answer = content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip()"
    " if '</think>' in content else '' %}"
    "{% if loop.last %}"
    "{% set content = '<think>\n' + thought + '\n</think>\n\n' + answer %}"
    "{% else %}{% set content = answer %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CORPUS = (
    "The tenant shall pay the rent on the first day of each month.",
    "Either party may terminate this agreement by giving thirty days of written notice.",
    "What is the capital of France? The capital of France is Paris.",
    "Which clause limits the liability of the supplier? The answer is: section nine.",
    "Question: how many apples are left? Answer: there are four apples left.",
    "User: translate the sentence into German. Assistant: here is the translation.",
    "The film was great, the music was terrible, and the ending was neither.",
    "Read the text and say whether it is positive or negative; yes or no will do.",
    "foo bar foobar foo, bar; foobar! 1 2 3 10 20 30 100",
    "system user assistant tool instruction input output context question answer rationale",
)


@cache
def _trained(specials: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(BPE(unk_token=None))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return str(tokenizer.to_str())


def make_tokenizer(kind: str = "plain") -> PreTrainedTokenizerFast:
    """Return a fresh tokenizer of one of `KINDS`; all have pad and, but for `encoder`, eos."""
    if kind not in KINDS:
        raise ValueError(f"no tokenizer kind '{kind}'; there are {', '.join(KINDS)}")
    specials = ("<pad>", "<s>", "</s>")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    if kind == "eospad":
        specials, names = ("</s>",), {"pad_token": "</s>", "eos_token": "</s>"}
    if kind == "chatml":
        specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
        names = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    if kind == "encoder":
        specials = ("[PAD]", "[CLS]", "[SEP]")
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    backend = Tokenizer.from_str(_trained(specials))
    if kind == "encoder":
        backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    if kind == "seq2seq":
        backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    if kind == "bos":
        backend.post_processor = TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    if kind == "chatml":
        tokenizer.chat_template = CHATML_TEMPLATE
    return tokenizer
