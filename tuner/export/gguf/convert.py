"""Run llama.cpp's converter on a folder of safetensors."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import IntegrityError, ModelError
from tuner.machine import processes
from tuner.machine.converter import folder

_PROGRAM = Path(__file__).with_name("run_converter.py")


def run(
    model: Path,
    file: Path,
    kind: str,
    splitting: str = "",
    name: str = "model",
    *,
    bos: bool = True,
) -> None:
    """Convert a folder of safetensors.

    Args:
        model: the folder.
        file: the GGUF file to write.
        kind: f32, f16, bf16 or q8_0.
        splitting: llama.cpp's name for how its tokenizer splits text, if the converter does not
            know it.
        name: the model's name within the file.
        bos: whether llama.cpp puts BOS before a prompt if the tokenizer does so with plain texts.

    Raises:
        ModelError: the converter does not know this kind of model.
        IntegrityError: it failed for another reason.
    """
    done = processes.python(
        *(str(_PROGRAM), str(folder()), splitting, "" if bos else "no-bos"),
        *("--outtype", kind, "--outfile", str(file), "--model-name", name, str(model)),
    )
    if done.returncode == 0 and file.is_file():
        return
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
    unknown = [line for line in lines if "is not supported" in line or "not recognized" in line]
    if unknown:
        raise ModelError(
            "llama.cpp's converter does not know this model",
            unknown[-1].strip(),
            "export merged; this version cannot write it as GGUF",
        )
    raise IntegrityError(
        "llama.cpp's converter failed",
        lines[-1].strip(),
        "export merged, and run the converter on it by hand to see its full output",
    )
