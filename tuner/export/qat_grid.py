"""The model that `train.qat` trained: merged weights on the grid that training computed with.

An export in that format must be this model; it is made here by torchao's own fake quantizer, not
by code of the exporter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tuner.export.proof import measure, reload
from tuner.methods import qat

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.recipe.formats import ExportFormat

# The export formats of the two schemes, and the largest KL to what was trained.
FORMATS = {"int8": "int8-torchao", "int4": "int4"}
LIMIT = 1e-4


def wanted(work: Work, row: ExportFormat) -> bool:
    """Return whether this is the format that the run was trained for."""
    return FORMATS.get(work.facts["qat"]) == row.name


@torch.no_grad()
def logits(work: Work) -> torch.Tensor:
    """Return logits of the quantized model at the positions where artefacts are compared."""
    from tuner.methods import qat_layers

    model: Any = reload.whole(work.job, "merged", work.merged).eval()
    layers = {name: model.get_submodule(name) for name in qat_layers.quantized_layers(model)}
    size = qat.group_size({name: layer.in_features for name, layer in layers.items()})
    for layer in layers.values():
        group = size if work.facts["qat"] == "int4" else None
        round_to_grid = qat_layers.quantizer(work.facts["qat"], group, layer.weight.dtype)
        layer.weight.data = round_to_grid(layer.weight.data)
    return measure.read(model, work.both)
