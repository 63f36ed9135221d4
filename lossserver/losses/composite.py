"""A weighted sum of other losses, in one call."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import mul
from typing import Any, ClassVar

from lossserver.losses.allowance import shared
from lossserver.losses.loss import Call, Loss, check_names, require
from lossserver.losses.remember import refuse_other_names
from lossserver.registry import LOSSES, RefusedError
from lossserver.tree import map_tensors, tensors

#: Options of a part that come as an input of the sum, a value for each part.
BY_PART = frozenset({"avg_factor", "reduction_override"})

#: Losses of one sum. A detector that is trained at each of its decoder's layers has some forty.
MAX_PARTS = 64

#: How often the parts may read what was sent, each in its own way and all in memory together; and
#: numbers that they may read in any case, 64 MiB of float32.
MAX_READ = 4
MAX_READ_OF_FEW = 1 << 24


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class Sum(Loss):
    """A weighted sum of losses: one call, named parts, tensors sent once and shared.

    L = Σ_k w_k L_k

    Parameters:
        parts: the config of each part, by the name it is to have, such as
            dict(cls=dict(type="FocalLoss"), box=dict(type="GIoULoss")). A name
            has no "." and no "/". A part may be a sum itself.
        weights: w by part; 1 for those left out.

    Inputs:
        pred: what all parts read that take it; or a map with the names of the
            parts, that gives some or all of them one of their own.
        target: likewise; and so is whatever input a part takes by its own
            name (weight, ignore_index, mask ...).
        avg_factor: a map of divisors by part, where one is not for all.
        reduction_override: a map by part, where one is not for all.

    Returns:
        One output a part, w times its loss; of a part with several outputs,
        "part.output" for each, and a metric as it is. `result.loss` is the sum
        of all but metrics, each unreduced one summed first. State and upstream
        gradient are maps by part and by output.

    Raises:
        ValueError: no parts or over 64, a weight of no part, whatever a part
            refuses, an input of its own among it that it does not take, a map
            in which only some of the keys are names of parts, or far more to be
            held than was sent: the pairs that parts make count together, and so
            do the numbers they remember and what of large tensors they read.

    Source:
        The dict of losses that MMDetection's `parse_losses` adds up.
    """

    TAKES: ClassVar[frozenset[str]] = BY_PART
    OPTIONS: ClassVar[frozenset[str]] = BY_PART

    parts: dict[str, Any]
    weights: dict[str, float] | None = None

    def __post_init__(self) -> None:
        require(bool(self.parts), "parts", "a sum must have a part", "none")
        for name in self.parts:
            # "a.b" is output b of part a, and what it remembers is "a/b" to a trainer.
            fits = name and "." not in name and "/" not in name
            require(bool(fits), "parts", "a name must be a text without . and /", repr(name))
        count = _count(self.parts.values())
        require(count <= MAX_PARTS, "parts", f"must be at most {MAX_PARTS}", count)
        for name, weight in sorted(self._weights.items()):
            self._refuse_unknown("weights", name)
            fits = isinstance(weight, int | float) and not isinstance(weight, bool)
            require(fits, f"weights.{name}", "must be a number", repr(weight))
        _ = self.losses  # a config that no loss can be built from is refused now

    @property
    def _weights(self) -> Mapping[str, float]:
        return self.weights or {}

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """The loss of each part."""
        # Sorted, since a map that was sent has no order: one call is refused in one way.
        parts = sorted(self.parts.items())
        return {name: LOSSES.part(config, f"parts.{name}") for name, config in parts}

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
    def metrics(self) -> frozenset[str]:
        return frozenset(
            _output(part, output) for part, loss in self.losses.items() for output in loss.metrics
        )

    @property
    def slow(self) -> bool:
        return True  # as slow as all its parts

    @property
    def remembers(self) -> bool:
        return any(loss.remembers for loss in self.losses.values())

    def check(self, call: Call) -> None:
        if call.state is not None:
            known = [name for name, loss in self.losses.items() if loss.remembers]
            refuse_other_names(call.state, known)
        most = max(MAX_READ * _elements(call), MAX_READ_OF_FEW)
        rule = f"parts must read what was sent at most {MAX_READ} times, or {most} numbers in all"
        require((read := self.elements_read(call)) <= most, "inputs", rule, read)
        with shared():
            for part, loss in self.losses.items():
                self._check_part(part, loss, call)

    def _check_part(self, part: str, loss: Loss, call: Call) -> None:
        own = self._call(part, call)
        try:
            check_names(loss, own, self.parts[part]["type"])
            loss.check(own)
        except RefusedError as refusal:
            raise RefusedError(
                refusal.field, f"of part {part!r}: {refusal.rule}", refusal.given
            ) from None

    def elements_read(self, call: Call) -> int:
        """The elements that the parts read, and the parts of sums among them, one after another."""
        read = 0
        for part, loss in self.losses.items():
            own = self._call(part, call)
            read += loss.elements_read(own) if isinstance(loss, Sum) else _elements(own)
        return read

    def outputs(self, call: Call) -> dict[str, Any]:
        return self.step(call)[0]

    def step(self, call: Call) -> tuple[dict[str, Any], Any]:
        found: dict[str, Any] = {}
        state = {}
        for part, loss in self.losses.items():
            outputs, own = loss.step(self._call(part, call))
            weight = partial(mul, self._weights.get(part, 1.0))
            for name, value in outputs.items():
                metric = name in loss.metrics
                found[_output(part, name)] = value if metric else map_tensors(weight, value)
            if loss.remembers:
                state[part] = own
        return found, state or None

    def _call(self, part: str, call: Call) -> Call:
        """What one part sees of the call."""
        loss = self.losses[part]
        inputs = self._inputs(part, call)
        options: dict[str, Any] = {}
        for name in sorted(BY_PART):
            if isinstance(inputs.get(name), dict) and isinstance(loss, Sum):
                options[name] = None  # stays an input: a map by the parts of that sum
            elif name in inputs:
                options[name] = _option(inputs.pop(name), name)
            else:
                options[name] = getattr(call, name) if name in loss.OPTIONS else None
        return replace(
            call,
            inputs=inputs,
            grad_output={
                name: call.grad_output[_output(part, name)]
                for name in loss.names
                if _output(part, name) in call.grad_output
            },
            state=call.state[part] if call.state is not None and loss.remembers else None,
            **options,
        )

    def _inputs(self, part: str, call: Call) -> dict[str, Any]:
        """One part's inputs: its own of what comes as a map by part, and all else that it takes.

        What is its own it need not take: then it is refused, and not left out.
        """
        loss = self.losses[part]
        known = loss.needs | loss.takes
        own = {name: given for name, given in call.inputs.items() if self._by_part(name, given)}
        for_all = {k: v for k, v in call.inputs.items() if k in known and k not in own}
        return for_all | {k: v[part] for k, v in own.items() if v.get(part) is not None}

    def _by_part(self, name: str, given: Any) -> bool:
        """Whether an input comes as a map by part."""
        if name in BY_PART:
            require(isinstance(given, dict), name, "must be a map by part", type(given).__name__)
        elif not isinstance(given, dict) or not given.keys() & self.parts.keys():
            return False
        for part in sorted(given):
            self._refuse_unknown(name, part)
        return True

    def _refuse_unknown(self, field: str, part: str) -> None:
        require(part in self.parts, field, f"the parts are {', '.join(sorted(self.parts))}", part)


def _count(configs: Iterable[Any]) -> int:
    """How many losses there are, those within sums counted."""
    parts = [config.get("parts") if isinstance(config, dict) else None for config in configs]
    return sum(_count(one.values()) if isinstance(one, dict) else 1 for one in parts)


def _elements(call: Call) -> int:
    return sum(one.numel() for one in tensors(dict(call.inputs)))


def _output(part: str, name: str) -> str:
    return part if name == "loss" else f"{part}.{name}"


def _option(own: Any, name: str) -> Any:
    """A part's own avg_factor or reduction_override."""
    wanted, said = (str, "texts") if name == "reduction_override" else (int | float, "numbers")
    fits = isinstance(own, wanted) and not isinstance(own, bool)
    require(fits, name, f"must be a map by part of {said}", repr(own))
    return own
