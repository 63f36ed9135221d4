"""What a loss remembers, as buffers of a module: kept, saved, and loaded.

Which names a loss remembers, only a reply says. What is loaded before the first
one is therefore kept as it came, and sorted out when a reply has come (`settle`).
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossclient.torch_tree import flat, nested

log = logging.getLogger("lossclient")

#: Buffers in upstream's checkpoints that nothing has to remember: GHMC's and GHMR's follow from bins.
NO_STATE = frozenset({"edges"})


class Remembering(nn.Module):
    """A module whose buffers are what its loss remembers; none before the first call."""

    def __init__(self) -> None:
        super().__init__()
        self._settled = False

    @property
    def guessed(self) -> bool:
        """Whether the buffers were loaded, and no reply has said yet which of them are any."""
        return bool(self._buffers) and not self._settled

    def state(self) -> Any:
        """What to send, as a copy of its own; None at the beginning."""
        return nested({name: kept.detach().clone() for name, kept in self.named_buffers()})

    def settle(self, state: Any) -> None:
        """Drop what was loaded and is not in a state that came with a reply."""
        others = sorted(self._buffers.keys() - flat(state).keys())
        self._drop(others)
        self._settled = True
        if others:
            log.warning("dropped of the loaded state what %r does not remember: %s", self, others)

    def remember(self, state: Any, device: torch.device) -> None:
        """Keep a state that came with a reply."""
        # Buffers made in inference mode could not be used in training afterwards.
        with torch.inference_mode(mode=False), torch.no_grad():
            for name, value in flat(state).items():
                if name in self._buffers:
                    self.get_buffer(name).copy_(value)
                else:
                    self.register_buffer(name, value.to(device, copy=True))
        self._settled = True

    def _drop(self, names: list[str]) -> None:
        for name in names:
            delattr(self, name)
        self._settled = False

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        *rest: Any,
    ) -> None:
        own = {
            key: value
            for key, value in state_dict.items()
            if key.startswith(prefix) and key.removeprefix(prefix) not in NO_STATE
        }
        # A module's state always says a version: this one's is of before its first call.
        of_the_beginning = not own and "version" in local_metadata
        if of_the_beginning or (own and not self._settled):
            self._drop(list(self._buffers))
        if not self._settled:
            for key, value in own.items():
                name = key.removeprefix(prefix)
                if isinstance(value, Tensor) and "." not in name and not hasattr(self, name):
                    self.register_buffer(name, torch.empty_like(value))
        super()._load_from_state_dict(own, prefix, local_metadata, *rest)
