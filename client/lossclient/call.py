"""A call as bytes. No sockets here."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lossclient.headers import plain_call
from lossclient.terms import USUAL, Terms, WireDtype
from losswire import value
from losswire.errors import SpecError
from losswire.frame import Parts
from losswire.narrow import exact, rounded
from losswire.resident import Handle, sorted_out
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb

_BARE = (int, float, np.generic)


def encode_call(
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    wrt: Iterable[str] = ("pred",),
    avg_factor: float | Mapping[str, float] | None = None,
    reduction_override: str | Mapping[str, str] | None = None,
    grad_output: Any = None,
    state: Any = None,
    terms: Terms = USUAL,
) -> Parts:
    """The parts of the ComputeRequest. Inputs that are None are left out.

    Raises:
        SpecError, TensorError: something that cannot travel.
    """
    # Of a generator there is one look.
    wrt = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not isinstance(reduction_override, str | Mapping | None):
        raise SpecError("must be a text", field="reduction_override", given=reduction_override)
    if grad_output is None and state is None and terms.plain:
        known = plain_call(config, inputs, wrt, avg_factor, reduction_override, terms)
        if known is not None:
            return known
    payloads: list[Buffer] = []
    header = pb.ComputeHeader(config=value.pack(plain(config), [], "config"), wrt=wrt)
    terms.write(header)
    wires = terms.wires
    for name, given in inputs.items():
        if given is not None:
            written = functools.partial(_written, wires.get(name, ""))
            header.inputs[name].CopyFrom(value.pack(given, payloads, name, written=written))
    _set_options(header, payloads, avg_factor=avg_factor, reduction_override=reduction_override)
    if grad_output is not None:
        if not isinstance(grad_output, dict | TensorBytes | Handle | int | float):
            grad_output = np.asarray(grad_output)
        header.grad_output.CopyFrom(value.pack(_upstream(grad_output), payloads, "grad_output"))
    if state is not None:
        header.state.CopyFrom(value.pack(state, payloads, "state"))
    return sorted_out(header, payloads)


def _written(wire: str, given: TensorBytes) -> TensorBytes:
    """A tensor in as few bytes as it may have."""
    return exact(rounded(given, wire) if wire else given)


def call_message(
    cfg: Mapping[str, Any],
    pred: Any,
    target: Any = None,
    weight: Any = None,
    avg_factor: float | Mapping[str, float] | None = None,
    reduction_override: str | Mapping[str, str] | None = None,
    *,
    grad_output: Any = None,
    wrt: Iterable[str] = ("pred",),
    state: Any = None,
    terms: Terms = USUAL,
    wire_dtype: WireDtype = None,
    grad_keep: float | None = None,
    **more: Any,
) -> Parts:
    """The parts of the ComputeRequest of `Client.compute` with these arguments."""
    return encode_call(
        cfg,
        {"pred": _arrays(pred), "target": _arrays(target), "weight": _arrays(weight), **more},
        wrt=wrt,
        avg_factor=avg_factor,
        reduction_override=reduction_override,
        grad_output=grad_output,
        state=state,
        terms=terms.but(wire_dtype, grad_keep),
    )


def _arrays(value: Any) -> Any:
    """Bare numbers as arrays: a pred or weight may be one."""
    return np.asarray(value) if isinstance(value, _BARE) else value


def _set_options(header: pb.ComputeHeader, payloads: list[Buffer], **options: Any) -> None:
    """An option for all parts is one of the call; a map of them by part is an input."""
    for name, given in options.items():
        if given is None:
            continue
        own = numbers(given, name) if name == "avg_factor" else given
        if isinstance(own, Mapping):
            header.inputs[name].CopyFrom(value.pack(plain(own), payloads, name))
        else:
            setattr(header, name, own)


def _upstream(tree: Any) -> Any:
    """An upstream gradient with its numbers as arrays."""
    if isinstance(tree, TensorBytes | Handle):
        return tree
    if isinstance(tree, dict):
        return {name: _upstream(one) for name, one in tree.items()}
    if isinstance(tree, list | tuple):
        return [_upstream(one) for one in tree]
    return np.asarray(float(tree)) if isinstance(tree, int | float | np.generic) else tree


def numbers(given: Any, field: str) -> Any:
    """A number of any kind as a float, or a map of them.

    Raises:
        SpecError: something that is no number.
    """
    if isinstance(given, Mapping):
        return {part: numbers(one, f"{field}.{part}") for part, one in given.items()}
    try:
        return float(given)
    except (TypeError, ValueError, RuntimeError):  # the last is torch's, of several numbers
        raise SpecError("must be a number", field=field, given=repr(given)) from None


def plain(config: Any, depth: int = 0) -> Any:
    """A config with its arrays as lists: a class_weight is often an array."""
    if depth > value.MAX_DEPTH:
        return config  # which `value.pack` refuses; it may even contain itself
    if isinstance(config, Mapping):
        return {key: plain(item, depth + 1) for key, item in config.items()}
    if isinstance(config, list | tuple):
        return [plain(item, depth + 1) for item in config]
    return config.tolist() if isinstance(config, np.ndarray | np.generic) else config
