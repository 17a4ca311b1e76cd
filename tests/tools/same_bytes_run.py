"""The process of `same_bytes` that runs cases: it has imported the libraries, and forks for each
command, so that a command costs no import and knows nothing of the one before."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes")
# Keys of JSON objects whose values are times, this machine, or the digests of files with such.
CHANCE = re.compile(
    r"seconds|^started$|^ended$|^durations$|^created$|peak_memory|^measured|^versions$|^git$|^host$"
    r"|^machine$|^pid$|^date|^time|^memory_|per_second|^cost$|^commit$|^written$|^cpu"
)
# In the facts on memory: what includes the size of this process.
MEMORY = {"process", "total", "drawing", "export", "peak"}
# The same in texts; the sizes are those that were measured.
SCRUB = (
    (re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?"), "DATE"),
    (re.compile(r"\b\d\d:\d\d:\d\d(,\d+)?"), "TIME"),
    (re.compile(r"\b\d+ (min|h) \d+ (s|min)\b"), "TIME"),
    (re.compile(r"\b[\d.,]+ ?(ms|s|min|h|seconds|minutes)\b"), "TIME"),
    (re.compile(r"\bseconds [\d.]+"), "seconds TIME"),
    (re.compile(r"[\d,]+ tokens per second"), "SPEED"),
    # Rows of a rehearsal: a measured time, and what it makes in the run.
    (re.compile(r"(?m)^(.*\S) +\d+\.\d\d +(TIME|-)$"), r"\1 TIME \2"),
    (re.compile(rf"\b({'|'.join(sorted(MEMORY))})( +)[\d.,]+ [KMG]iB"), r"\1\2SIZE"),
    (re.compile(r"(peak[^\n]{0,40}?)\b[\d.,]+ [KMG]iB"), r"\1SIZE"),
    (re.compile(r"[\d.,]+ [KMG]iB (peak|planned)|[\d.]+ times the plan"), "SIZE"),
    (re.compile(r"\b(pid|process) \d+"), r"\1 N"),
    (re.compile(r"[.-](staging|scratch)-[\w.-]+"), "-STAGING"),
)
# Left out: a digest of times says nothing.
_SKIPPED = re.compile(r"(^|/)(run\.log|\.lock|[^/]*\.stderr)$")


def main() -> None:
    """Make the bases, or run the cases that standard input names."""
    root, place, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    # The cases are this checkout's; `tuner` is that of PYTHONPATH, which may have other tests.
    sys.path.insert(0, str(root))
    cases = importlib.import_module("tests.tools.same_bytes_cases")
    sys.path.remove(str(root))
    if what == "bases":
        make_model = importlib.import_module("tests.tiny").make_model
        for kind in cases.BASES:
            if kind != "noisy":
                make_model(kind, place / "bases" / kind)
        _make_noisy(place / "bases" / "mixtral", place / "bases" / "noisy")
        return
    for library in LIBRARIES:
        importlib.import_module(library)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name = line.strip()
        folder = place / "cases" / name
        found = _case(cases.cases()[name], folder, place / "bases")
        answers.write(json.dumps(found) + "\n")
        answers.flush()


def _make_noisy(mixture: Path, folder: Path) -> None:
    """Save a mixture of experts that differs from itself in a batch of two.

    An expert multiplies the rows that it is given at once, one or two of them, in sums of another
    order; sharp attention makes more of that in each layer. So the noise that a proof measures is
    above the roundings that it always allows, and its limit is a multiple of the noise.
    """
    import torch
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    config = MixtralConfig.from_pretrained(mixture)
    config.num_hidden_layers, config.num_local_experts = 6, 16
    torch.manual_seed(0)
    model = MixtralForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            sharp = "q_proj" in name or "k_proj" in name
            torch.nn.init.normal_(parameter, std=0.96 if sharp else 0.24)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(mixture).save_pretrained(folder)


def _case(case: Any, folder: Path, bases: Path) -> dict[str, str]:
    """Run the commands of a case; what they leave, by name."""
    case.write(folder, bases)
    cache = folder / "same-bytes" / "cache"
    cache.mkdir(parents=True)
    # Rates that were measured stand in later plans: each case has a cache of its own.
    os.environ["TUNER_CACHE"] = str(cache)
    for kept in Path("~/.cache/tuner").expanduser().glob("llama.cpp-*"):
        (cache / kept.name).symlink_to(kept)
    found: dict[str, str] = {}
    for number, command in enumerate(case.commands):
        words = shlex.split(command.line)
        code, texts = _run(words, folder, command)
        label = f"{number} {' '.join(words[:3])}"
        if not command.kill_at:
            found[f"{label}: exit code"] = str(code)
            for stream, text in texts.items():
                found[f"{label}: {stream}"] = _keep(text, folder, f"{number}.{stream}")
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        plain = file.is_file() and not file.is_symlink()
        if plain and not _SKIPPED.search(name) and not name.startswith("same-bytes/"):
            found[name] = _digest(file)
    return found


def _run(words: list[str], folder: Path, command: Any) -> tuple[int, dict[str, str]]:
    """Run `tuner` in a fork of this process: its exit code and what it printed."""
    files = {name: folder / "same-bytes" / f"raw-{name}" for name in ("stdout", "stderr")}
    files["stdout"].parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_tuner(words, folder, files, command)
    if command.kill_at:
        _kill(child, folder, command.kill_at)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, {name: file.read_text("utf-8", "replace") for name, file in files.items()}


def _be_tuner(words: list[str], folder: Path, files: dict[str, Path], command: Any) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    given = folder / "same-bytes" / "stdin"
    given.write_text(command.stdin, "utf-8")
    os.dup2(os.open(given, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.argv = ["tuner", *words]
    code = 99
    try:
        importlib.import_module("tuner.__main__").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill(child: int, folder: Path, pattern: str) -> None:
    """Kill a command once a file is there."""
    end = time.monotonic() + 120
    while time.monotonic() < end and not any(folder.glob(pattern)):
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)


def _keep(text: str, folder: Path, name: str) -> str:
    """The digest of a text without what chance decides; the text itself is in the folder."""
    try:
        text = json.dumps(_without_chance(json.loads(text)), indent=1)
    except ValueError:
        text = _scrubbed("".join(map(_line, text.splitlines(keepends=True))))
    (folder / "same-bytes" / name).write_text(text, "utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(line: str) -> str:
    """A line of output; one of `--json` without what chance decides."""
    try:
        return json.dumps(_without_chance(json.loads(line))) + "\n" if line[:1] == "{" else line
    except ValueError:
        return line


def _header(raw: bytes) -> dict[str, Any]:
    """The header of a safetensors file."""
    header: dict[str, Any] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return header


def _shuffled(file: Path) -> bool:
    """Whether a safetensors file has metadata in an order of chance: torchao writes a map."""
    return len(_header(file.read_bytes()).get("__metadata__", {})) > 1


def _digest(file: Path) -> str:
    raw = file.read_bytes()
    try:
        if file.name == "MANIFEST.json":
            manifest = _without_chance(json.loads(raw))
            for tensors in filter(_shuffled, file.parent.glob("*.safetensors")):
                manifest.get("files", {}).pop(tensors.name, None)
            raw = json.dumps(manifest, sort_keys=True).encode()
        elif file.suffix == ".safetensors":
            data = raw[8 + int.from_bytes(raw[:8], "little") :]
            raw = json.dumps(_header(raw), sort_keys=True).encode() + data
        elif file.suffix == ".json":
            raw = json.dumps(_without_chance(json.loads(raw)), sort_keys=True).encode()
        elif file.suffix == ".jsonl":
            lines = [_without_chance(json.loads(line)) for line in raw.splitlines()]
            raw = json.dumps(lines, sort_keys=True).encode()
        elif file.suffix in (".html", ".md", ".svg", ".csv", ".yaml"):
            raw = _scrubbed(raw.decode()).encode()
    except ValueError:
        pass
    return hashlib.sha256(raw).hexdigest()[:16]


def _without_chance(value: Any) -> Any:
    """JSON without times; without digests of JSON files, which hold times, in manifests."""
    if isinstance(value, dict):
        return {
            key: _without_chance(part)
            for key, part in value.items()
            if not CHANCE.search(key)
            and not (key in MEMORY and "process" in value)
            and not key.endswith((".json", ".md", ".html", ".log"))
            and not (key == "sha256" and "files" in value)
        }
    if isinstance(value, list):
        return [_without_chance(part) for part in value]
    return _scrubbed(value) if isinstance(value, str) else value


def _scrubbed(text: str) -> str:
    """The text with a word for each part that chance decides."""
    for pattern, word in SCRUB:
        text = pattern.sub(word, text)
    return text


if __name__ == "__main__":
    main()
