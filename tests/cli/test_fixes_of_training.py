"""Errors of optimizers, schedules and the loss: what they say is done, and the plan works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.fixes import Fault, follows, leaves_out, sets
from tests.tiny import make_model

REWARD = {"rule": "length", "max": 8}
RLHF = {"rlhf.algorithm": "grpo", "rlhf.reward": [REWARD], "rlhf.max_new_tokens": 8}
ASK = [{"prompt": f"Say {n}."} for n in range(16)]
FAULTS = {
    "muon on vectors": Fault(
        2, "Muon updates whole matrices, and dora also trains", sets(),
        {"train.optimizer": "muon", "method.name": "dora"},
    ),
    "a schedule without need": Fault(
        2, "takes the place of a falling rate", leaves_out,
        {"train.optimizer": "schedule_free", "train.scheduler": "cosine"},
    ),
    "Adam's keys": Fault(
        2, "train.adam_beta2 and train.optimizer: lion, which has none", leaves_out,
        {"train.optimizer": "lion", "train.adam_beta2": 0.95},
    ),
    "a decay without wsd": Fault(
        2, "train.decay is for train.scheduler: wsd, and it is linear", sets(),
        {"train.decay": 0.4},
    ),
    "cycles of a cosine": Fault(
        2, "train.cycles is for train.scheduler: cosine_restarts", leaves_out,
        {"train.scheduler": "cosine", "train.cycles": 3},
    ),
    "a floor of a constant": Fault(
        2, "constant, which never falls", leaves_out,
        {"train.scheduler": "constant", "train.floor": 0.1},
    ),
    "a long decay": Fault(
        2, "train.decay: 400 is longer than the run", sets(),
        {"train.scheduler": "wsd", "train.decay": 400},
    ),
    "noise on a policy": Fault(
        2, "train.embedding_noise: 5 and `tuner rlhf`", leaves_out,
        {**RLHF, "train.embedding_noise": 5}, rows=ASK,
    ),
    "smoothing of rewards": Fault(
        2, "train.label_smoothing: 0.1 and `tuner rlhf`", leaves_out,
        {**RLHF, "train.label_smoothing": 0.1}, rows=ASK,
    ),
    "an average of a policy": Fault(
        2, "answers would come from other weights", sets(),
        {**RLHF, "train.optimizer": "schedule_free"}, rows=ASK,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("bases") / "llama-chatml-0")


@pytest.mark.parametrize("name", FAULTS)
def test_what_an_error_says_to_do_works(name: str, tmp_path: Path, tiny: Path) -> None:
    follows(FAULTS[name], tmp_path, tiny)
