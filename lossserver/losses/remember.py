"""Losses that remember: their state comes with a call, and the next one goes back with the reply."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lossserver.losses.loss import Call, ReducedLoss, name_of, tensor_of
from lossserver.registry import RefusedError

#: Numbers that a state may hold: a thousand times what LVIS's 1,203 classes need. A call without
#: rows brings no byte of them, so that its size must not be the only bound.
MAX_STATE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RememberingLoss(ReducedLoss):
    """A loss whose value depends on the calls before: its state comes and goes with each call."""

    REMEMBERS: ClassVar[bool] = True

    @abstractmethod
    def initial(self) -> dict[str, Tensor]:
        """The state before the first call: float32 tensors by name.

        Called only with a config that fits the inputs, so that no size in it
        is larger than what was sent.
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
        if call.state is None:
            device = tensor_of(call, "pred").device
            return {name: value.to(device) for name, value in initial.items()}
        if not isinstance(call.state, dict) or call.state.keys() != initial.keys():
            given = (
                sorted(call.state) if isinstance(call.state, dict) else type(call.state).__name__
            )
            raise RefusedError("state", f"must have exactly {', '.join(sorted(initial))}", given)
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
