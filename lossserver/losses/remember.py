"""Losses that remember: their state comes with a call, and the next one goes back with the reply."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.losses.allowance import with_others
from lossserver.losses.loss import Call, ReducedLoss, name_of, require, tensor_of
from lossserver.registry import RefusedError

#: Numbers that the states of one call may hold: a thousand times what LVIS's 1,203 classes need. A
#: call without rows brings no byte of them, so that its size must not be the only bound.
MAX_STATE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RememberingLoss(ReducedLoss):
    """A loss whose value depends on the calls before: its state comes and goes with each call."""

    REMEMBERS: ClassVar[bool] = True

    @abstractmethod
    def initial(self) -> dict[str, Tensor]:
        """The state before the first call: float32 tensors by name.

        Its sizes are the config's alone, each bounded there: inputs without rows bring no byte.
        """

    @abstractmethod
    def step(self, call: Call) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """The outputs, and the next state; None if it does not remember as it is configured."""

    def outputs(self, call: Call) -> dict[str, Tensor]:
        return self.step(call)[0]

    def state_of(self, call: Call) -> dict[str, Tensor]:
        """The call's state, as a copy of its own, or the initial one.

        Raises:
            RefusedError: it has not the names, shapes and dtypes of the initial one.
        """
        initial = self.initial()
        numbers = with_others(sum(map(torch.numel, initial.values())), "numbers remembered")
        require(numbers <= MAX_STATE, "state", f"must not be over {MAX_STATE} numbers", numbers)
        if call.state is None:
            device = tensor_of(call, "pred").device
            return {name: value.to(device) for name, value in initial.items()}
        refuse_other_names(call.state, initial)
        for name, expected in initial.items():
            value = call.state[name]
            if not isinstance(value, Tensor) or value.shape != expected.shape:
                given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise RefusedError(
                    f"state.{name}", f"must be a tensor of {list(expected.shape)}", given
                )
            if not value.is_floating_point():
                raise RefusedError(f"state.{name}", "must be floating point", name_of(value.dtype))
        return {name: value.detach().float().clone() for name, value in call.state.items()}


def refuse_other_names(state: Any, names: Iterable[str]) -> None:
    """Refuse a state that is not a map of exactly these names."""
    wanted = sorted(names)
    found = sorted(state) if isinstance(state, dict) else None
    given = type(state).__name__ if found is None else ", ".join(found) or "an empty map"
    require(found == wanted, "state", f"must be a map of {', '.join(wanted)}", given)
