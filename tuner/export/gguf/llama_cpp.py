"""A GGUF file in llama.cpp itself: logits, and greedy answers.

Run as `python -m tuner.export.gguf.llama_cpp job.json`, so that nothing that llama.cpp does to its
process, prints or crashes on reaches ours. It is compared with the same file, dequantized, in
transformers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save_file

from tuner.errors import IntegrityError
from tuner.export.gguf.model import silent
from tuner.export.proof import fresh_process, measure, reload
from tuner.export.proof.measure import ProbeRows

# Answers that are compared, and their longest length in tokens.
ANSWERS, LENGTH = 3, 24
# llama.cpp rounds activations to 8 bits for quantized weights.
LIMIT = 0.05
# Types that builds of llama.cpp have been seen to compute wrongly on a CPU, also with files from
# their publishers.
UNSURE = ("Q4_1", "Q5_1", "Q6_K")


def installed() -> bool:
    """Return whether llama.cpp is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def check(file: Path, job: dict[str, Any], held: ProbeRows, folder: Path) -> dict[str, Any]:
    """Compare llama.cpp with transformers on a GGUF file; return nothing if it is not installed.

    Args:
        file: the GGUF file.
        job: how to load it (see `fresh_process.job_of`).
        held: rows to read.
        folder: for temporary files.

    Returns:
        version, kl, max_logit_difference, same_answers of answers, and `unsure`: types in the file
        whose results do not count.

    Raises:
        IntegrityError: llama.cpp gives other results, or cannot load the file.
    """
    if not installed():
        return {}
    rows = ProbeRows(held.rows[:ANSWERS], held.targets[:ANSWERS])
    task = job | {"file": str(file), "rows": rows.rows, "targets": rows.targets}
    figures: dict[str, Any] = json.loads(
        fresh_process.child("tuner.export.gguf.llama_cpp", task, folder)
    )
    if figures["unsure"] or figures["kl"] <= LIMIT:
        return figures
    raise IntegrityError(
        "llama.cpp gives other results for this GGUF file",
        f"KL {figures['kl']:.3g} to the same file in transformers, the limit is {LIMIT}",
        "choose another type, and report it with llama-cpp-python's version",
    )


def with_adapter(
    base: Path, adapter: Path, job: dict[str, Any], held: ProbeRows, folder: Path
) -> torch.Tensor:
    """Return logits (positions, vocabulary) of a base's GGUF file with a GGUF adapter on it.

    Raises:
        IntegrityError: llama.cpp cannot load them.
    """
    files = {"file": str(base), "adapter": str(adapter)}
    task = job | files | {"rows": held.rows, "targets": held.targets}
    return load(fresh_process.child("tuner.export.gguf.llama_cpp", task, folder))["logits"]


def main() -> None:
    """Run as a separate process."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    from tuner.model.transformers_errors import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(job["threads"])
    held = ProbeRows(job["rows"], job["targets"])
    network = _open(job, max(len(row["input_ids"]) for row in held.rows) + LENGTH)
    found = torch.cat(
        [
            _read(network, row["input_ids"], targets)
            for row, targets in zip(held.rows, held.targets, strict=True)
        ]
    )
    if job.get("adapter"):
        save_file({"logits": found}, job["result"])
        return
    Path(job["result"]).write_text(json.dumps(_compared(job, held, network, found)), "utf-8")


def _open(job: dict[str, Any], context: int) -> Any:
    import llama_cpp

    with silent(), _as_stored(llama_cpp.llama_cpp):
        return llama_cpp.Llama(
            job["file"],
            n_ctx=context,
            n_batch=context,
            logits_all=True,
            n_threads=job["threads"],
            n_threads_batch=job["threads"],
            verbose=False,
            lora_path=job.get("adapter"),
        )


@contextlib.contextmanager
def _as_stored(library: Any) -> Iterator[None]:
    """Let models that are opened meanwhile compute with the weights as stored in the file.

    Repacked for a processor with AMX, they ended the process with an illegal instruction
    (llama-cpp-python 0.3.36, gcc 12); `Llama` has no argument for it.
    """
    defaults = library.llama_model_default_params

    def plain() -> Any:
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    library.llama_model_default_params = plain
    try:
        yield
    finally:
        library.llama_model_default_params = defaults


def _read(network: Any, ids: list[int], targets: measure.Targets) -> torch.Tensor:
    network.reset()
    network.eval(ids)
    scores = np.array(network.scores[: len(ids)])
    return torch.from_numpy(scores)[[place for place, _ in targets]]


def _compared(
    job: dict[str, Any], held: ProbeRows, network: Any, found: torch.Tensor
) -> dict[str, Any]:
    """Compare llama.cpp with transformers on the same file."""
    import llama_cpp
    from gguf import GGUFReader

    file = Path(job["file"])
    types = {tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    model = reload.whole(job, "gguf", file.parent).eval()
    wanted = measure.read(model, held)
    same = 0
    for row, targets in zip(held.rows, held.targets, strict=True):
        prompt = row["input_ids"][: targets[0][0] + 1]
        same += _greedy(network, prompt, job) == _answer(model, prompt, job)
    return {
        "version": llama_cpp.__version__,
        "kl": measure.divergence(wanted, found),
        "max_logit_difference": float((wanted - found).abs().max()),
        "same_answers": same,
        "answers": len(held.rows),
        "unsure": sorted(types & set(UNSURE)),
    }


def _greedy(network: Any, prompt: list[int], job: dict[str, Any]) -> list[int]:
    network.reset()
    answer: list[int] = []
    network.eval(prompt)
    while len(answer) < LENGTH:
        token = int(np.argmax(network.scores[network.n_tokens - 1]))
        if token in job["stops"]:
            break
        answer.append(token)
        network.eval([token])
    return answer


@torch.no_grad()
def _answer(model: Any, prompt: list[int], job: dict[str, Any]) -> list[int]:
    ids = torch.tensor([prompt], device=model.device)
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=LENGTH,
        eos_token_id=job["stops"] or None,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return [token for token in written if token not in job["stops"]]


if __name__ == "__main__":
    main()
