"""A weighted sum of other losses, in one call."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from lossserver.losses.loss import Call, Loss, check_names
from lossserver.registry import LOSSES, RefusedError

#: Options of a part that come as an input of the sum, a value for each part.
BY_PART = frozenset({"avg_factor", "reduction_override"})


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class Sum(Loss):
    """A weighted sum of losses: one call, named parts, tensors sent once and shared.

    L = Σ_k w_k L_k

    Parameters:
        parts: the config of each part, by the name it is to have, such as
            dict(cls=dict(type="FocalLoss"), box=dict(type="GIoULoss")).
        weights: w by part; 1 for those left out.

    Inputs:
        pred: what all parts read; or a map with the names of the parts, that
            gives some or all of them one of their own.
        target: likewise; and so is whatever input a part takes by its own
            name (weight, ignore_index, mask ...).
        avg_factor: a map of divisors by part, where one is not for all.
        reduction_override: a map by part, where one is not for all.

    Returns:
        One output a part, w times its loss; of a part with several outputs,
        "part.output" for each. `result.loss` is the sum of all, each unreduced
        one summed first. State and upstream gradient are maps by part and by output.

    Raises:
        ValueError: no parts, a weight of no part, whatever a part refuses, or
            a map in which only some of the keys are names of parts.

    Source:
        The dict of losses that MMDetection's `parse_losses` adds up.
    """

    TAKES: ClassVar[frozenset[str]] = BY_PART
    OPTIONS: ClassVar[frozenset[str]] = BY_PART

    parts: dict[str, Any]
    weights: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise RefusedError("parts", "a sum must have a part", "none")
        for name, weight in self._weights.items():
            if name not in self.parts:
                raise RefusedError("weights", f"the parts are {', '.join(self.parts)}", name)
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise RefusedError(f"weights.{name}", "must be a number", repr(weight))
        _ = self.losses  # a config that no loss can be built from is refused now

    @property
    def _weights(self) -> Mapping[str, float]:
        return self.weights or {}

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """The loss of each part."""
        return {name: _built(name, config) for name, config in self.parts.items()}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset.intersection(*(loss.needs for loss in self.losses.values()))

    @property
    def takes(self) -> frozenset[str]:
        return self.TAKES.union(*(loss.needs | loss.takes for loss in self.losses.values()))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(
            _output(part, output) for part, loss in self.losses.items() for output in loss.names
        )

    @property
    def remembers(self) -> bool:
        return any(loss.remembers for loss in self.losses.values())

    def check(self, call: Call) -> None:
        known = {name for name, loss in self.losses.items() if loss.remembers}
        if call.state is not None and not (
            isinstance(call.state, dict) and call.state.keys() == known
        ):
            raise RefusedError("state", f"must be a map of {', '.join(sorted(known))}", "another")
        for part, loss in self.losses.items():
            own = self._call(part, call)
            try:
                check_names(loss, own, self.parts[part]["type"])
                loss.check(own)
            except RefusedError as refusal:
                raise RefusedError(
                    refusal.field, f"of part {part!r}: {refusal.rule}", refusal.given
                ) from None

    def outputs(self, call: Call) -> dict[str, Tensor]:
        return self.step(call)[0]

    def step(self, call: Call) -> tuple[dict[str, Tensor], Any]:
        found: dict[str, Tensor] = {}
        state = {}
        for part, loss in self.losses.items():
            outputs, own = loss.step(self._call(part, call))
            weight = self._weights.get(part, 1.0)
            found |= {_output(part, name): weight * value for name, value in outputs.items()}
            if loss.remembers:
                state[part] = own
        return found, state or None

    def _call(self, part: str, call: Call) -> Call:
        """What one part sees of the call."""
        loss = self.losses[part]
        inputs = {name: self._share(part, name, given) for name, given in call.inputs.items()}
        options = {name: _option(inputs.pop(name, None), call, loss, name) for name in BY_PART}
        known = loss.needs | loss.takes
        return replace(
            call,
            inputs={k: v for k, v in inputs.items() if v is not None and k in known},
            grad_output={
                name: call.grad_output[_output(part, name)]
                for name in loss.names
                if _output(part, name) in call.grad_output
            },
            state=call.state[part] if call.state is not None and loss.remembers else None,
            **options,
        )

    def _share(self, part: str, name: str, given: Any) -> Any:
        """One part's share of an input: its own, if it comes as a map by part, else all of it."""
        if not isinstance(given, dict) or not given.keys() & self.parts.keys():
            return given
        if unknown := sorted(given.keys() - self.parts.keys()):
            raise RefusedError(name, f"the parts are {', '.join(self.parts)}", unknown[0])
        return given.get(part)


def _built(name: str, config: Any) -> Loss:
    if not isinstance(config, dict):
        raise RefusedError(f"parts.{name}", "must be a config", type(config).__name__)
    try:
        loss: Loss = LOSSES.build(config)
    except RefusedError as refusal:
        raise RefusedError(f"parts.{name}.{refusal.field}", refusal.rule, refusal.given) from None
    return loss


def _output(part: str, name: str) -> str:
    return part if name == "loss" else f"{part}.{name}"


def _option(own: Any, call: Call, loss: Loss, name: str) -> Any:
    """A part's avg_factor or reduction_override: its own, or the call's if it has such an option."""
    if own is None:
        return getattr(call, name) if name in loss.OPTIONS else None
    wanted = str if name == "reduction_override" else int | float
    if isinstance(own, bool) or not isinstance(own, wanted):
        raise RefusedError(name, "must be a map by part of numbers or reductions", repr(own))
    return own
