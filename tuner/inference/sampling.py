"""Sampling: how the tokens of an answer are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuner.errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen.

    Attributes:
        temperature: 0 takes the likeliest token each time; above, tokens are sampled.
        top_p: sample from the likeliest tokens that together have this probability, 1 from all.
        top_k: sample from this many of the likeliest tokens, 0 from all. If neither is given,
            the base's generation config decides, or else all tokens count.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None

    def arguments(self, own: Any) -> dict[str, Any]:
        """Return the arguments of transformers' `generate`.

        Args:
            own: the base's generation config.
        """
        if not self.temperature:
            # None leaves out what the base's own config would set for sampled tokens.
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        how: dict[str, Any] = {"do_sample": True, "temperature": self.temperature}
        if self.top_p is not None or self.top_k is not None:
            how |= {"top_p": 1.0 if self.top_p is None else self.top_p, "top_k": self.top_k or 0}
        elif own.top_k is None:
            # transformers would sample from 50.
            how["top_k"] = 0
        return how


GREEDY = Sampling()


class FirstScores:
    """A logits processor of transformers that looks at the scores of an answer's first token: the
    likeliest of scores that are no numbers would be token 0.

    What is out of float16's range is so at every token; to look at each would let the processor
    wait for the GPU.

    Args:
        kind: the type that the model computes in.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._seen = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores as they are.

        Raises:
            ModelError: they are infinite or no numbers.
        """
        if not self._seen:
            refuse_not_finite(scores, self._kind)
        self._seen = True
        return scores


def refuse_not_finite(scores: Any, kind: Any) -> None:
    """Refuse scores that are infinite or no numbers; one that is minus infinity is a token left
    out.

    Args:
        scores: of a model.
        kind: the type that it computes in.

    Raises:
        ModelError: they are.
    """
    if bool(scores.amax().isfinite()):
        return
    name = str(kind).removeprefix("torch.")
    fix = "check the files of the model and of its adapter: tuner verify FOLDER"
    if name == "float16":
        fix = "answer on the CPU, in float32: put CUDA_VISIBLE_DEVICES= before the command"
    raise ModelError("the model's scores are not finite", f"it computes in {name}", fix)
