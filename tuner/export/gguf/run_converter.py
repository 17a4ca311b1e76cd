"""llama.cpp's converter, run with what it cannot find out about a model.

Run as `python run_converter.py FOLDER SPLITTING BOS ...`: FOLDER holds the converter, SPLITTING is
llama.cpp's name for how the tokenizer splits text, or empty; BOS is `no-bos` where llama.cpp must
not put BOS before a prompt; the rest are the converter's own arguments. It is a separate process,
because the converter brings a module `gguf` that differs from the installed one.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Prepare the converter and run it."""
    folder, splitting, bos = Path(sys.argv.pop(1)), sys.argv.pop(1), sys.argv.pop(1)
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    from conversion.base import TextModel
    from conversion.gpt2 import GPT2Model
    from gguf import GGUFWriter

    if splitting:
        split_as(TextModel, splitting)
    if bos == "no-bos":
        without_bos(GGUFWriter)
    read_sizes(GPT2Model)
    runpy.run_path(str(folder / "convert_hf_to_gguf.py"), run_name="__main__")


def split_as(model: Any, splitting: str) -> None:
    """Name the splitting of a tokenizer that the converter does not know.

    It recognises a tokenizer by a hash over the tokens of a certain text, so only published ones
    with their own vocabulary, and gives up on others.
    """
    recognise = model.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> Any:
        try:
            return recognise(self, tokenizer)
        except NotImplementedError:
            return splitting

    model.get_vocab_base_pre = get_vocab_base_pre


def without_bos(writer: Any) -> None:
    """Write that nothing comes before a prompt, whatever the tokenizer does with plain texts.

    The prompts of a chat template that writes no BOS were trained without one.
    """
    write = writer.add_add_bos_token
    writer.add_add_bos_token = lambda self, value: write(self, False)


def read_sizes(gpt2: Any) -> None:
    """Take two sizes of a GPT-2 from its configuration.

    The converter reads the context length under its first name, which transformers no longer
    writes, and takes the inner size of the MLP to be four times the other.
    """
    write = gpt2.set_gguf_parameters

    def set_gguf_parameters(self: Any) -> None:
        self.hparams.setdefault("n_ctx", self.hparams.get("n_positions"))
        write(self)
        if self.hparams.get("n_inner"):
            self.gguf_writer.add_feed_forward_length(self.hparams["n_inner"])

    gpt2.set_gguf_parameters = set_gguf_parameters


if __name__ == "__main__":
    main()
