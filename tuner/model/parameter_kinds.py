"""Which parameters of a model are embeddings, and which belong to its head."""

from __future__ import annotations

from typing import Any

import torch

from tuner.model.heads import is_new


def of(model: Any) -> dict[str, str]:
    """Return the parameters that are an embedding or a head, as name -> which.

    A matrix that is both counts as an embedding. With an adapter on the model, what is trained of
    such a module (a whole copy, or some rows) is of its kind; factors on it are not.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = dict[str, str]()
    for name, module in model.named_modules():
        kind = "embedding" if isinstance(module, torch.nn.Embedding) else ""
        if module is head or is_new(name):
            kind = kind or "head"
        if kind:
            for own, _ in module.named_parameters(prefix=name):
                if "lora_" not in own:
                    found.setdefault(own, kind)
    # peft's rows of single tokens, which replace those of the embedding.
    rows = {name: "embedding" for name, _ in model.named_parameters() if "trainable_tokens" in name}
    return found | rows
