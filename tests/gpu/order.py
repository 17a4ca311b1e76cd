"""The checks of `python -m tests.gpu`, in order of worth."""

from __future__ import annotations

from tests.gpu.checks import ceilings, coverage, gradients, kernels, memory, ours, peers, whole_runs
from tests.gpu.program import Check

CHECKS = (
    Check("ceilings", 10, ceilings.check),
    Check("kernels", 25, kernels.check),
    Check("gradients", 25, gradients.check),
    Check("runs", 70, whole_runs.check),
    Check("8B", 45, ours.eight),
    Check("8B-peers", 80, peers.eight),
    Check("8B-nf4", 45, peers.eight_nf4),
    Check("1B", 75, peers.one),
    Check("coverage", 60, coverage.check),
    Check("memory", 40, memory.check),
)
