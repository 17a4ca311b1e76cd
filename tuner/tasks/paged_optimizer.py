"""bitsandbytes' paged AdamW on a GPU, whose state stays paged in resumed runs."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.optim import adamw


class PagedAdamW8bit(adamw.PagedAdamW8bit):
    """Paged AdamW whose state is paged whatever it comes from.

    bitsandbytes pages a state only where it makes it. accelerate loads the state of an optimizer
    once more to move it to the device, which would copy paged memory to ordinary memory.
    """

    def load_state_dict(self, state_dict: Any, move_to_device: bool = True) -> None:
        """Keep the state as it is: it is on its device."""

    def page(self) -> None:
        """Put a restored state into paged memory."""
        own = {id(each) for group in self.param_groups for each in group["params"]}
        buffer: Any = self.get_state_buffer
        for parameter, values in self.state.items():
            for key in ("state1", "state2") if id(parameter) in own else ():
                value = values.get(key)
                if isinstance(value, torch.Tensor) and not getattr(value, "is_paged", False):
                    paged = buffer(parameter, dtype=value.dtype)
                    values[key] = paged.copy_(value)
