"""A call as it is written on the command line → the message that is sent.

    FocalLoss:64x80                                   a loss and the shape of pred
    GIoULoss:1000x4/float64                           and its dtype
    {"type": "FocalLoss", "gamma": 1.5}:64x80         a whole config
    torch.CTCLoss:pred=50x4x20,target=4x10/int64<20   each input; integers below 20

What fits a loss is not written down here a second time: of a few usual kinds of
inputs the first is taken that the server's own decoder does not refuse.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from lossserver.card import card
from lossserver.decode import decode
from lossserver.registry import UnknownNameError
from losswire import frame, value
from losswire.dtypes import DTYPES
from losswire.errors import LossError, SpecError
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb

Shape = tuple[int, ...]
Array = npt.NDArray[Any]
Inputs = dict[str, Any]

_CALL = re.compile(r"(?P<config>\{.*\}|[\w.]+):(?P<inputs>[^{}]+)", re.DOTALL)
_INPUT = re.compile(r"((?P<name>\w+)=)?(?P<shape>\d+(x\d+)*)(/(?P<dtype>\w+?))?(<(?P<limit>\d+))?")

#: Pixels along the side that made-up boxes lie in.
IMAGE = 1000.0


class CallError(ValueError):
    """A call that cannot be understood, or made inputs for."""


def message_of(written: str, seed: int) -> bytes:
    """The message of a call, with inputs drawn at random.

    Raises:
        CallError: it is not written as above, or needs inputs that must be named.
    """
    parts = _CALL.fullmatch(written)
    if parts is None:
        raise CallError(f"a call must be written LOSS:SHAPE, such as FocalLoss:64x80; {written!r}")
    config = _config(parts["config"])
    inputs = [_input(one) for one in parts["inputs"].split(",")]
    rng = np.random.default_rng(seed)
    if inputs[0][0]:
        return _message(config, {name: _drawn(rng, *drawn) for name, drawn in inputs})
    shape, dtype, limit = inputs[0][1]
    if len(inputs) > 1 or limit:
        raise CallError(f"each input must be named, as in pred=64x80; given {parts['inputs']!r}")
    return _accepted(config, rng, shape, dtype)


def _accepted(config: dict[str, Any], rng: np.random.Generator, shape: Shape, dtype: str) -> bytes:
    """The message with the first made-up inputs that the server's decoder accepts."""
    refusals = []
    for inputs in _made_up(config, rng, shape, dtype):
        message = _message(config, inputs)
        try:
            decode(frame.read(message), None, Future())  # type: ignore[arg-type]  # it is never settled
        except LossError as error:
            if error.field.startswith("config"):
                raise CallError(str(error)) from None
            refusals.append(str(error))
        else:
            return message
    name = config.get("type")
    raise CallError(
        f"the inputs of {name} must be named, as in FocalLoss:pred=64x80,target=64/int64<80: none "
        f"that could be made up were accepted ({'; '.join(dict.fromkeys(refusals))})"
    )


def _made_up(
    config: dict[str, Any], rng: np.random.Generator, shape: Shape, dtype: str
) -> Iterator[Inputs]:
    """The usual kinds of inputs, the most particular ones first."""
    more = {name: _floats(rng.random(shape), dtype) for name in _needed(config)}
    logits = _floats(rng.standard_normal(shape), dtype)
    shares = _floats(rng.random(shape), dtype)
    labels = rng.integers(0, shape[1] if len(shape) > 1 else 2, shape[:1] + shape[2:])
    yield {"pred": logits, "target": labels, **more}
    if len(shape) == 2 and shape[1] == 4:
        pred, target = (_floats(_boxes(rng, shape[0]), dtype) for _ in range(2))
        yield {"pred": pred, "target": target, **more}
    yield {"pred": logits, "target": shares, **more}
    yield {"pred": shares, "target": shares, **more}
    yield {"pred": logits, "target": [labels, _floats(rng.random(labels.shape), dtype)], **more}
    yield {"pred": logits, **more}


def _needed(config: dict[str, Any]) -> list[str]:
    """Names of the inputs a loss must have besides pred and target."""
    try:
        inputs = card(str(config.get("type"))).inputs
    except UnknownNameError as error:
        raise CallError(str(error)) from None
    return [one.name for one in inputs if one.required and one.name not in ("pred", "target")]


def _boxes(rng: np.random.Generator, count: int) -> Array:
    corner = rng.random((count, 2)) * IMAGE / 2
    size = (1 + rng.random((count, 2)) * IMAGE) / 2
    return np.concatenate([corner, corner + size], axis=1)


def _config(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        return {"type": text}
    try:
        config: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise CallError(f"a config must be JSON ({error}); given {text}") from None
    return config


def _input(text: str) -> tuple[str, tuple[Shape, str, int]]:
    """The name, shape, dtype and limit of an input as it is written."""
    parts = _INPUT.fullmatch(text)
    if parts is None:
        raise CallError(f"an input must be written SHAPE or NAME=SHAPE/DTYPE; given {text!r}")
    dtype = parts["dtype"] or "float32"
    if dtype not in DTYPES:
        raise CallError(f"dtype must be one of {', '.join(DTYPES)}; given {dtype}")
    shape = tuple(map(int, parts["shape"].split("x")))
    return parts["name"] or "", (shape, dtype, int(parts["limit"] or 0))


def _drawn(rng: np.random.Generator, shape: Shape, dtype: str, limit: int) -> Any:
    if "float" in dtype:
        return _floats(rng.standard_normal(shape), dtype)
    return rng.integers(0, limit or 2, shape).astype(dtype)


def _floats(array: Array, dtype: str) -> Any:
    if dtype != "bfloat16":
        return array.astype(dtype)
    # NumPy has none; it is the upper half of a float32.
    upper = (array.astype("<f4").view("<u4") >> 16).astype("<u2")
    return TensorBytes("bfloat16", array.shape, upper.tobytes())


def _message(config: dict[str, Any], inputs: Inputs) -> bytes:
    payloads: list[Buffer] = []
    try:
        header = pb.ComputeHeader(config=value.pack(config, [], "config"), wrt=["pred"])
        for name, given in inputs.items():
            header.inputs[name].CopyFrom(value.pack(given, payloads, name))
    except SpecError as error:
        raise CallError(str(error)) from None
    return frame.write(header.SerializeToString(), payloads)
