"""One GGUF file for llama.cpp and Ollama, and the Modelfile that goes with it.

The file is written by llama.cpp's own converter and, for the smaller types, quantized by
llama.cpp's own quantizer; what it says about the tokenizer is compared with the tokenizer, as a
wrong end token or a doubled first one spoils every answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.chat.chat_template import sends_bos
from tuner.errors import IntegrityError, ModelError
from tuner.export.gguf import convert, modelfile
from tuner.machine import threads
from tuner.machine.converter import require
from tuner.recipe.formats import ExportFormat

if TYPE_CHECKING:
    from tuner.export.job import Work

# Types that the converter writes itself.
DIRECT = ("f32", "f16", "bf16", "q8_0")
# The patterns of Qwen2 and of Llama 3, by which many tokenizers split.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
}
_IDS = {
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def write_gguf(row: ExportFormat, work: Work, folder: Path) -> None:
    """Write the file and, if Ollama can write its prompts, the Modelfile.

    Args:
        row: the format.
        work: its merged model is converted.
        folder: takes them.

    Raises:
        ModelError: the converter is missing, or does not know the model.
        IntegrityError: the converter failed, or the file does not match the tokenizer.
    """
    require()
    if work.job["num_labels"] or work.job["head"] != "language":
        raise ModelError(
            "a GGUF file is for models that generate text",
            f"this one is a {work.job['head']} model",
            "export merged",
        )
    wanted = row.llama_type
    file = folder / f"{_stem(work)}-{wanted}.gguf"
    splitting, bos = splits_like(work.tokenizer), sends_bos(work.tokenizer)
    if wanted in DIRECT:
        convert.run(work.merged, file, wanted, splitting, _stem(work), bos=bos)
    else:
        # Quantizing starts from the trained weights.
        whole = folder / "whole.gguf"
        kind = "f32" if work.job["dtype"] == "float32" else "bf16"
        convert.run(work.merged, whole, kind, splitting, _stem(work), bos=bos)
        quantize(whole, file, wanted)
        whole.unlink()
    check_tokenizer(file, work.tokenizer)
    if modelfile.problem(work.tokenizer) is None:
        text = modelfile.text(file.name, work.tokenizer, work.stops or (), work.context_length)
        (folder / "Modelfile").write_text(text, "utf-8")


def splits_like(tokenizer: Any) -> str:
    """Return llama.cpp's name for how a byte-level BPE splits text; empty: unknown."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = whole.get("pre_tokenizer") or {}
    steps = parts.get("pretokenizers", [parts])
    byte_level = steps[-1].get("type") == "ByteLevel"
    if whole["model"]["type"] != "BPE" or not byte_level:
        return ""
    if len(steps) == 1 and steps[0].get("use_regex"):
        return "gpt-2"
    first = steps[0]
    if first.get("type") == "Digits" and first.get("individual_digits"):
        return "smollm" if len(steps) == 2 and steps[1].get("use_regex") else ""
    return _SPLITS.get(str((first.get("pattern") or {}).get("Regex")), "")


def _stem(work: Work) -> str:
    """Return the run's name, in letters that every system allows."""
    name = (work.origin.run or work.origin.folder).resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name) or "model"


def quantize(source: Path, file: Path, kind: str) -> None:
    """Quantize a GGUF file by llama.cpp.

    Raises:
        ModelError: this build does not support the type.
        IntegrityError: llama.cpp refused.
    """
    import llama_cpp

    number = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}", None)
    if number is None:
        raise ModelError(
            f"this llama-cpp-python does not support the type {kind}",
            llama_cpp.__version__,
            "upgrade it",
        )
    with silent():
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = number
        parameters.nthread = threads.processors()
        code = llama_cpp.llama_model_quantize(
            str(source).encode(), str(file).encode(), ctypes.byref(parameters)
        )
    if code:
        raise IntegrityError(
            f"llama.cpp could not quantize to {kind}",
            f"llama_model_quantize returned {code}",
            "choose gguf-q8_0, which needs no quantizer",
        )


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what llama.cpp writes to the process's own stdout and stderr off the terminal."""
    saved = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, old in zip((1, 2), saved, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(nowhere)


def field(reader: Any, name: str) -> Any:
    """Return a value of a GGUF file's metadata; None if it is missing."""
    found = reader.get_field(name)
    return None if found is None else found.contents()


def check_tokenizer(file: Path, tokenizer: Any) -> None:
    """Compare what a GGUF file says about its tokenizer with the tokenizer (E14).

    Raises:
        IntegrityError: an id, the chat template or the use of the first token differ.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    problems = []
    for name, key in _IDS.items():
        ours, theirs = getattr(tokenizer, name), field(reader, key)
        # llama.cpp pads nothing; a file need not name it.
        if ours != theirs and not (name == "pad_token_id" and theirs is None):
            problems.append(f"{key} is {theirs}, the tokenizer has {ours}")
    template = field(reader, "tokenizer.chat_template")
    if isinstance(tokenizer.chat_template, str) and template != tokenizer.chat_template:
        problems.append("tokenizer.chat_template differs")
    adds, says = sends_bos(tokenizer), field(reader, "tokenizer.ggml.add_bos_token")
    if says is not None and bool(says) != adds:
        problems.append(f"tokenizer.ggml.add_bos_token is {says}, the prompts say {adds}")
    count = len(field(reader, "tokenizer.ggml.tokens") or ())
    if count < len(tokenizer):
        problems.append(f"it has {count} tokens, the tokenizer {len(tokenizer)}")
    if problems:
        raise IntegrityError(
            "the GGUF file does not match the tokenizer",
            problems[0],
            "please report it with the base model's name",
            problems if len(problems) > 1 else None,
        )
