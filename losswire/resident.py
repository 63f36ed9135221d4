"""Tensors that stay with a server: their address, and what stands for them in a message.

    Handle      a tensor: its bytes, and the digest of them
    Reference   what is in a message instead: the digest, and on this side the bytes, too

The address is the content, so who has the bytes can always put them again: on
another server, or on one that has let them go. A handle belongs to no server.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from losswire.frame import Parts
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb

#: Bytes of a digest.
DIGEST = 32


def digest_of(content: Buffer) -> bytes:
    """BLAKE2b-256 of the bytes. Other threads go on meanwhile."""
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


class Reference(bytes):
    """A serialised Elsewhere, which on this side of the wire knows what it refers to.

    Attributes:
        content: the bytes that have the digest.
        digest: it.
    """

    content: bytes
    digest: bytes

    @classmethod
    def to(cls, content: bytes, digest: bytes) -> "Reference":
        """A reference to bytes of that digest."""
        made = cls(pb.Elsewhere(digest=digest).SerializeToString())
        made.content, made.digest = content, digest
        return made


class Handle:
    """A tensor that may stay with a server; in a call it stands for an array. Made by `Client.put`.

    It holds a copy of the bytes, for a server that does not have them or no
    longer. It never changes; it may be pickled, and used with any client.

    Attributes:
        dtype: name of its element type.
        shape: its extents.
        digest: BLAKE2b-256 of its bytes.
    """

    def __init__(self, dtype: str, shape: Sequence[int], content: bytes) -> None:
        self.dtype = dtype
        self.shape = tuple(shape)
        self.digest = digest_of(content)
        self.reference = Reference.to(content, self.digest)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return len(self.reference.content)

    @property
    def described(self) -> TensorBytes:
        """The tensor, with the reference in place of its bytes."""
        return TensorBytes(self.dtype, self.shape, self.reference)

    def __reduce__(self) -> tuple[Any, ...]:
        return Handle, (self.dtype, self.shape, self.reference.content)

    def __copy__(self) -> "Handle":
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> "Handle":
        return self

    def __repr__(self) -> str:
        return f"Handle({self.dtype} {list(self.shape)}, {self.digest.hex()[:12]}…)"


def sorted_out(header: pb.ComputeHeader, payloads: Sequence[Buffer]) -> Parts:
    """The parts of a call whose payloads are numbered as they came, references among them.

    What is not in the message has the last numbers, and the tensors of the header
    are renumbered for that.
    """
    there = [index for index, one in enumerate(payloads) if not isinstance(one, Reference)]
    if len(there) == len(payloads):
        return Parts(header.SerializeToString(), payloads)
    away = [index for index, one in enumerate(payloads) if isinstance(one, Reference)]
    number_of = {index: number for number, index in enumerate([*there, *away])}
    for value in [*header.inputs.values(), header.grad_output, header.state]:
        _renumber(value, number_of.__getitem__)
    return Parts(
        header.SerializeToString(),
        [payloads[index] for index in there],
        [payloads[index] for index in away],
    )


def _renumber(value: pb.Value, number_of: Callable[[int], int]) -> None:
    match value.WhichOneof("kind"):
        case "tensor_value":
            tensor = value.tensor_value
            tensor.payload = number_of(tensor.payload)
            for name in ("scales", "indices"):
                if tensor.HasField(name):
                    setattr(tensor, name, number_of(getattr(tensor, name)))
        case "list_value":
            for item in value.list_value.items:
                _renumber(item, number_of)
        case "map_value":
            for item in value.map_value.entries.values():
                _renumber(item, number_of)
