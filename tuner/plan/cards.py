"""GPUs that a run can be planned for without having them."""

from __future__ import annotations

import re
from dataclasses import replace

from tuner.errors import RecipeError
from tuner.machine.hardware import BF16_CAPABILITY, Gpu, Machine
from tuner.schema.suggest import nearest, plain

_MIB, _GIB = 1 << 20, 1 << 30
# Total memory in MiB as nvidia-smi reports it, and compute capability.
CARDS = {
    name: Gpu(full, mib * _MIB, capability)
    for name, full, mib, capability in (
        ("t4", "Tesla T4", 15360, (7, 5)),
        ("rtx3090", "NVIDIA GeForce RTX 3090", 24576, (8, 6)),
        ("rtx4090", "NVIDIA GeForce RTX 4090", 24564, (8, 9)),
        ("rtx5090", "NVIDIA GeForce RTX 5090", 32607, (12, 0)),
        ("a10", "NVIDIA A10", 23028, (8, 6)),
        ("l4", "NVIDIA L4", 23034, (8, 9)),
        ("a6000", "NVIDIA RTX A6000", 49140, (8, 6)),
        ("l40s", "NVIDIA L40S", 46068, (8, 9)),
        ("a100-40", "NVIDIA A100-SXM4-40GB", 40960, (8, 0)),
        ("a100-80", "NVIDIA A100-SXM4-80GB", 81920, (8, 0)),
        ("h100", "NVIDIA H100 80GB HBM3", 81559, (9, 0)),
        ("h200", "NVIDIA H200", 143771, (9, 0)),
        ("b200", "NVIDIA B200", 183359, (10, 0)),
    )
}


def machine_with(here: Machine, card: str | None, count: int | None) -> Machine:
    """Return the machine to plan for: this one, or one with the GPUs that were asked for.

    Args:
        here: this machine.
        card: a name of CARDS, or an amount of memory such as `24GiB`; None: this machine.
        count: number of GPUs; None: one.

    Raises:
        RecipeError: the name is not known, or a count was given without a GPU.
    """
    if card is None:
        if count is not None:
            raise RecipeError(
                f"--devices {count} without --for",
                "it counts the GPUs of the machine that --for names",
                f"add --for h100, or set run.devices with --set run.devices={count}",
            )
        return here
    return replace(here, gpus=(_find(card),) * (count or 1), gpu_note="", elsewhere=True)


def _find(card: str) -> Gpu:
    if found := CARDS.get(card.lower()):
        return found
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*GiB", card, re.IGNORECASE):
        return Gpu(f"a GPU with {match[1]} GiB", int(float(match[1]) * _GIB), BF16_CAPABILITY)
    parts = (name for name in CARDS if plain(card) in plain(name))
    near = next(parts, None) or nearest(card, CARDS)
    meant = f"did you mean {near}? else " if near else ""
    raise RecipeError(
        f"--for {card}: unknown GPU",
        f"known GPUs: {', '.join(CARDS)}",
        f"{meant}use one of these names, or a memory size: --for 24GiB (bfloat16 is then assumed)",
    )
