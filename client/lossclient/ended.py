"""How a call over a stream has ended that was not answered: what to make of it."""

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from losswire.errors import InternalError, LossError, NotServedError, UnreachableError
from losswire.status import from_status


class EndedError(UnreachableError):
    """The server has ended the stream, for want of use, and not seen the call: send it again."""


class UnservedError(NotServedError):
    """The server has no streams."""


class TooLongError(UnservedError):
    """Several calls, or answers, were too long for one message: send each call by itself."""


def told_by(status: bytes) -> LossError:
    """The error in a serialised google.rpc.Status.

    Raises:
        InternalError: it is none.
    """
    try:
        said = status_pb2.Status.FromString(status)
        return from_status(code_pb2.Code.Name(said.code), said.message, status)
    except (DecodeError, ValueError):
        return InternalError("a status must be a google.rpc.Status")
