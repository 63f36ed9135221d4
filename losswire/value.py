"""Plain Python values ⇄ Value: a config, an input, a tree of tensors.

    None  bool  int  float  str  list/tuple  dict  tensor

An integer stays an integer and None stays None. A tensor's bytes go to, and
come from, the message's list of payloads. A config is a value without tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from losswire import tensor
from losswire.errors import MessageError, SpecError, TensorError
from losswire.resident import Handle
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb

#: Lists and dicts within each other. The deepest config of MMDetection has 7.
MAX_DEPTH = 16

#: Values in one tree. A head's call with 64 images has some thousands.
MAX_NODES = 65536


def as_it_is(given: TensorBytes) -> TensorBytes:
    """A tensor written as it is."""
    return given


def pack(  # noqa: C901, PLR0912  (one case a kind)
    value: Any,
    payloads: list[Buffer],
    field: str = "value",
    depth: int = 0,
    written: Callable[[TensorBytes], TensorBytes] = as_it_is,
) -> pb.Value:
    """`value` as a message; bytes of its tensors, as they are `written`, are appended to `payloads`.

    Raises:
        SpecError: it holds something that does not travel, or is nested too deep.
        TensorError: an array's dtype does not travel.
    """
    if depth > MAX_DEPTH:
        raise SpecError(f"lists and dicts must be nested at most {MAX_DEPTH} deep", field=field)
    out = pb.Value()
    match value:
        case None:
            out.null_value.SetInParent()
        case np.generic():
            own = value.item()
            if isinstance(own, np.generic):  # such as np.longdouble's
                raise SpecError("must be a plain number", field=field, given=type(own).__name__)
            return pack(own, payloads, field, depth, written)
        case bool():
            out.bool_value = value
        case int():
            if not -(2**63) <= value < 2**63:
                raise SpecError("an integer must fit 64 bits", field=field, given=value)
            out.int_value = value
        case float():
            out.double_value = value
        case str():
            out.string_value = value
        case TensorBytes():
            _append(written(value), out, payloads)
        case Handle():
            _append(value.described, out, payloads)
        case np.ndarray():
            _append(written(tensor.pack(value, field)), out, payloads)
        case list() | tuple():
            out.list_value.SetInParent()
            out.list_value.items.extend(
                pack(item, payloads, f"{field}[{i}]", depth + 1, written)
                for i, item in enumerate(value)
            )
        case dict():
            out.map_value.SetInParent()
            for key, item in value.items():
                if not isinstance(key, str):
                    raise SpecError("keys must be texts", field=field, given=repr(key))
                packed = pack(item, payloads, f"{field}.{key}", depth + 1, written)
                out.map_value.entries[key].CopyFrom(packed)
        case _ if hasattr(value, "__array__"):
            _append(written(_of_framework(value, field)), out, payloads)
        case _:
            raise SpecError(
                "must be None, bool, int, float, str, list, dict or array",
                field=field,
                given=type(value).__name__,
            )
    return out


def _of_framework(value: Any, field: str) -> TensorBytes:
    """An array of another framework (JAX, TensorFlow, torch), by NumPy's protocol for them."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TensorError(
            f"must be an array that NumPy can read ({error})",
            field=field,
            given=type(value).__name__,
        ) from None
    return tensor.pack(array, field)


def _append(given: TensorBytes, out: pb.Value, payloads: list[Buffer]) -> None:
    out.tensor_value.CopyFrom(tensor.describe(given, len(payloads)))
    payloads.extend(tensor.buffers(given))


def tensors(value: pb.Value) -> Iterator[pb.Tensor]:
    """The tensors of a tree as they are described, in order."""
    match value.WhichOneof("kind"):
        case "tensor_value":
            yield value.tensor_value
        case "list_value":
            for item in value.list_value.items:
                yield from tensors(item)
        case "map_value":
            for item in value.map_value.entries.values():
                yield from tensors(item)


class Reader:
    """Values of one message, read back.

    Holds what must be counted over the whole message: which payloads have been
    named, and how many values there were.

    Parameters:
        payloads: the message's payloads.
        leaf: what a tensor becomes, such as `losswire.tensor.unpack`.

    Attributes:
        energy: the share of each tensor's sum of squares that was sent, by field, where it was said.
    """

    def __init__(self, payloads: Sequence[Buffer], leaf: Callable[[TensorBytes], Any]) -> None:
        self._payloads = payloads
        self._leaf = leaf
        self.energy: dict[str, float] = {}
        self._named: set[int] = set()
        self._nodes = 0

    def read(self, value: pb.Value, field: str, depth: int = 0) -> Any:
        """`value` as plain Python, tensors turned into leaves.

        Raises:
            SpecError: nested over 16 deep, over 65,536 values, or a kind this version lacks.
            TensorError, MessageError: a tensor and its payload disagree.
        """
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SpecError(f"a message must hold at most {MAX_NODES} values", field=field)
        if depth > MAX_DEPTH:
            raise SpecError(f"lists and dicts must be nested at most {MAX_DEPTH} deep", field=field)
        match value.WhichOneof("kind"):
            case "null_value":
                return None
            case "list_value":
                return [
                    self.read(item, f"{field}[{i}]", depth + 1)
                    for i, item in enumerate(value.list_value.items)
                ]
            case "map_value":
                # A protobuf map has no order of its own; the same bytes shall read the same.
                return {
                    key: self.read(value.map_value.entries[key], f"{field}.{key}", depth + 1)
                    for key in sorted(value.map_value.entries)
                }
            case "tensor_value":
                return self._tensor(value.tensor_value, field)
            case None:
                raise SpecError("a value must have a kind this version knows", field=field)
            case kind:
                return getattr(value, kind)

    def _tensor(self, described: pb.Tensor, field: str) -> Any:
        self._name(described.payload, field)
        read = tensor.read(described, self._payloads, field)
        if read.narrow is not None:
            if read.narrow.scales is not None:
                self._name(described.scales, field)
            if read.narrow.indices is not None:
                self._name(described.indices, field)
        if described.energy:
            self.energy[field] = described.energy
        return self._leaf(read)

    def _name(self, payload: int, field: str) -> None:
        if payload in self._named:
            raise MessageError("each payload belongs to one tensor", field=field, given=payload)
        self._named.add(payload)

    def finish(self) -> None:
        """Raise MessageError if a payload was named by no tensor."""
        if len(self._named) != len(self._payloads):
            raise MessageError(
                f"every payload must be named by a tensor; {len(self._named)} are",
                field="payloads",
                given=f"{len(self._payloads)} payloads",
            )
