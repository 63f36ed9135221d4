"""The client: send predictions, get the loss and its gradient back.

    import lossclient

    with lossclient.connect("localhost:50051") as client:
        result = client.compute(dict(type="FocalLoss"), pred, target)
        result.loss, result.grad

NumPy in, NumPy out; `lossclient.torch` has an nn.Module. Nothing here imports
torch.
"""

from lossclient.client import Client
from lossclient.connecting import connect
from lossclient.estimating import estimate
from lossclient.hedge import Hedge
from lossclient.reply import Result, Timings
from lossclient.retry import Retry
from losswire.cost import Costs, Estimate
from losswire.errors import (
    CancelledError,
    DeadlineError,
    DrainingError,
    InternalError,
    LossError,
    MessageError,
    MessageTooLargeError,
    NotResidentError,
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
from losswire.memory import keep as keep_memory
from losswire.resident import Handle

__all__ = [
    "CancelledError",
    "Client",
    "Costs",
    "DeadlineError",
    "DrainingError",
    "Estimate",
    "Handle",
    "Hedge",
    "InternalError",
    "LossError",
    "MessageError",
    "MessageTooLargeError",
    "NotResidentError",
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
    "estimate",
    "keep_memory",
]
