"""The learned virtual tokens without their method: plain tensors to put before a prompt, and a
readable list of the nearest vocabulary tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tuner.record.disk import write_file

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.tasks.trained import Trained

FILE, REPORT = "virtual_tokens.safetensors", "nearest_tokens.md"
NEAREST = 5


@torch.no_grad()
def write_virtual_tokens(plan: Plan, trained: Trained, folder: Path) -> None:
    """Save the virtual tokens.

    `virtual_tokens.safetensors` holds `embeddings` (data sets, tokens, hidden size), to put
    before the embeddings of a prompt; or `keys` and `values` (layers, heads, tokens, head size), to
    put into the KV cache before it. For embeddings `nearest_tokens.md` lists the nearest vocabulary
    tokens.
    """
    model = trained.model
    if plan.method.deep_prompts:
        layers = [layer[:2] for layer in model.get_prompt(batch_size=1)]
        tensors = {
            "keys": torch.cat([key for key, _ in layers]),
            "values": torch.cat([value for _, value in layers]),
        }
    else:
        tasks = plan.setting.tasks if plan.collate.tasks else 1
        numbers = torch.arange(tasks, device=model.device)
        tensors = {"embeddings": model.get_prompt(batch_size=tasks, task_ids=numbers)}
        text = report(plan.tokenizer, model.word_embeddings.weight, tensors["embeddings"])
        write_file(folder / REPORT, text.encode())
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(stored, folder / FILE)


def report(tokenizer: Any, vocabulary: torch.Tensor, embeddings: torch.Tensor) -> str:
    """List the nearest vocabulary tokens of each virtual token by cosine similarity, in Markdown.

    Args:
        tokenizer: decodes ids.
        vocabulary: (rows, hidden size).
        embeddings: (data sets, virtual tokens, hidden size).
    """
    directions = functional.normalize(vocabulary.float(), dim=-1)
    lines = ["# Nearest vocabulary tokens", "", "By cosine similarity of the embeddings."]
    for number, prompt in enumerate(embeddings):
        lines += ["", f"## Data set {number}"] if len(embeddings) > 1 else []
        lines += ["", "| virtual token | nearest |", "|---|---|"]
        similarity = functional.normalize(prompt.float(), dim=-1) @ directions.T
        values, ids = similarity.topk(NEAREST)
        for place, (row, near) in enumerate(zip(values.tolist(), ids.tolist(), strict=True)):
            words = [
                f"`{tokenizer.decode([token])!r}` {value:.2f}"
                for value, token in zip(row, near, strict=True)
            ]
            cell = ", ".join(words).replace("|", "\\|")
            lines.append(f"| {place} | {cell} |")
    return "\n".join(lines) + "\n"


class WithTokens:
    """A base with virtual tokens put before every row by hand, like a user of the file.

    Args:
        base: the untouched base model.
        folder: of the artefact.
    """

    takes_batches = False

    def __init__(self, base: Any, folder: str) -> None:
        self.base = base
        self.config = base.config
        self.device = base.device
        self.tensors = load_file(Path(folder) / FILE)

    def eval(self) -> WithTokens:
        """Put the base in evaluation mode."""
        self.base.eval()
        return self

    def __call__(self, input_ids: torch.Tensor, task_ids: torch.Tensor | None = None) -> Any:
        """Return the base's output for one row (1, tokens), at its own positions."""
        if "keys" in self.tensors:
            from transformers import DynamicCache

            cache = DynamicCache(config=self.config)
            pairs = zip(self.tensors["keys"], self.tensors["values"], strict=True)
            for layer, (key, value) in enumerate(pairs):
                cache.update(key[None].to(self.device), value[None].to(self.device), layer)
            return self.base(input_ids=input_ids, past_key_values=cache)
        task = 0 if task_ids is None else int(task_ids)
        embeddings = self.base.get_input_embeddings()(input_ids)
        before = self.tensors["embeddings"][task][None].to(embeddings)
        return self.base(inputs_embeds=torch.cat([before, embeddings], dim=1))
