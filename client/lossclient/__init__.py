"""The client: send predictions, get the loss and its gradient back.

    import lossclient

    with lossclient.connect("localhost:50051") as client:
        result = client.compute(dict(type="FocalLoss"), pred, target)
        result.loss, result.grad

NumPy in, NumPy out; `lossclient.torch` has an nn.Module. Nothing here imports
torch.
"""

from lossclient.call import Result, Timings
from lossclient.client import Client, connect
from lossclient.transport import Retry
from losswire.errors import (
    CancelledError,
    DeadlineError,
    DrainingError,
    InternalError,
    LossError,
    MessageError,
    MessageTooLargeError,
    NotServedError,
    OutOfMemoryError,
    OverloadedError,
    RequestError,
    ServiceError,
    SpecError,
    TensorError,
    UnknownLossError,
    UnreachableError,
)

__all__ = [
    "CancelledError",
    "Client",
    "DeadlineError",
    "DrainingError",
    "InternalError",
    "LossError",
    "MessageError",
    "MessageTooLargeError",
    "NotServedError",
    "OutOfMemoryError",
    "OverloadedError",
    "RequestError",
    "Result",
    "Retry",
    "ServiceError",
    "SpecError",
    "TensorError",
    "Timings",
    "UnknownLossError",
    "UnreachableError",
    "connect",
]
