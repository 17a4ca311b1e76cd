"""The critic of PPO: the expected return of an answer from each of its tokens on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

from tuner.data.tokens.collate import collate_read, placed
from tuner.errors import ModelError
from tuner.tasks import precision

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.rewards.response import Response
    from tuner.tasks.judges import RewardModel


class PolicyValue(torch.nn.Linear):
    """A head on the hidden states of the policy, in float32.

    It starts at zero, so that the first advantages are the rewards themselves (a head with random
    weights would train the policy on its noise).

    Args:
        size: of the hidden states.
        share: whether its loss reaches the policy's layers.
    """

    def __init__(self, size: int, share: bool) -> None:
        super().__init__(size, 1)
        self.share = share
        torch.nn.init.zeros_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def values(self, answers: Sequence[Response], hidden: torch.Tensor) -> torch.Tensor:
        """Return (tokens,) from hidden states (tokens, size), before each token was sampled."""
        read = hidden if self.share else hidden.detach()
        result: torch.Tensor = self(read.to(self.weight))[:, 0]
        return result


class RewardValue(torch.nn.Module):
    """A copy of the reward model's adapter and head, trained to predict its score.

    Its layers are the reward model's own base: only adapter and head are copied
    (Stiennon et al. 2020 and Ouyang et al. 2022 start the value function from the reward model).

    Args:
        source: the reward model; its own adapter stays as it is.
        plan: how its layers compute.

    Raises:
        ModelError: it has no adapter of which a copy could be trained.
    """

    def __init__(self, source: RewardModel, plan: Plan) -> None:
        super().__init__()
        self._source, self._plan = source, plan
        network: Any = source.network
        if not isinstance(network, PeftModel) or network.active_peft_config.is_prompt_learning:
            raise ModelError(
                "ppo.value_trunk: reward needs a reward model with an adapter in its layers",
                "the first reward model is a whole model, or has only virtual tokens",
                "set ppo.value_trunk: policy, or train the reward model with method.name: lora",
            )
        network.add_adapter("value", network.peft_config["default"])
        # The new adapter has its own dropout, which starts switched on.
        network.eval()
        own = dict(network.named_parameters())
        copies = {name: name.replace(".default.", ".value.") for name in own}
        with torch.no_grad():
            for name, copy in copies.items():
                if copy != name:
                    own[copy].copy_(own[name])
        network.set_adapter("value")
        self.weights = torch.nn.ParameterList([p for p in network.parameters() if p.requires_grad])
        self._give_back()

    def _give_back(self) -> None:
        """Restore the reward model; the copy can still receive gradients."""
        network: Any = self._source.network
        network.set_adapter("default", inference_mode=True)
        self.weights.requires_grad_(True)

    def values(self, answers: Sequence[Response], hidden: torch.Tensor) -> torch.Tensor:
        """Return (tokens,) from the answers themselves; `hidden`, the policy's, is not read."""
        network: Any = self._source.network
        network.set_adapter("value")
        try:
            rows = [[*answer.prompt_ids, *answer.response_ids] for answer in answers]
            batch = collate_read(rows, self._source.pad_id)
            classifier = network.get_base_model()
            trunk = getattr(classifier, classifier.base_model_prefix)
            with precision.as_trained(self._plan):
                states = trunk(**placed(batch, network.device))
                scores = classifier.score(states.last_hidden_state)[..., 0].float()
        finally:
            self._give_back()
        parts = [
            row[len(answer.prompt_ids) - 1 : len(ids) - 1]
            for row, answer, ids in zip(scores, answers, rows, strict=True)
        ]
        return torch.cat(parts)
