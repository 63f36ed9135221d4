"""An error ⇄ what gRPC carries of it: code, message, and google.rpc details.

The details are a google.rpc.Status with an ErrorInfo (reason, field, rule,
given), a BadRequest where a field is at fault, and a RetryInfo where the same
call may succeed a little later.
"""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from losswire import errors
from losswire.errors import STATUS, LossError

#: Trailing metadata key of a serialised google.rpc.Status.
DETAILS = "grpc-status-details-bin"

DOMAIN = "lossserver"

#: Seconds after which a call refused for load, or by a server that shuts down, may be repeated.
RETRY_AFTER = 0.1

_CLASS_OF = {pair: cls for cls, pair in STATUS.items()}
_BY_CODE: dict[str, type[LossError]] = {
    "INVALID_ARGUMENT": errors.MessageError,
    "NOT_FOUND": errors.UnknownLossError,
    "RESOURCE_EXHAUSTED": errors.OverloadedError,
    "UNIMPLEMENTED": errors.NotServedError,
    "UNAVAILABLE": errors.UnreachableError,
    "DEADLINE_EXCEEDED": errors.DeadlineError,
    "CANCELLED": errors.CancelledError,
}


def to_status(error: LossError) -> tuple[str, bytes]:
    """The status code's name, and the serialised google.rpc.Status."""
    code, name = STATUS[type(error)]
    reason = error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN)
    for key in ("field", "rule", "given"):
        if text := getattr(error, key):
            reason.metadata[key] = text
    details: list[Message] = [reason]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=str(error)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.OverloadedError | errors.DrainingError):
        delay = Duration(nanos=int(RETRY_AFTER * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=str(error))
    for detail in details:
        status.details.add().Pack(detail)
    return code, status.SerializeToString()


def from_status(code: str, message: str, details: bytes = b"") -> LossError:
    """The error that a status stands for; by its code alone where there are no details of ours."""
    reason = _reason_of(details)
    if reason is not None and (cls := _CLASS_OF.get((code, reason.reason))):
        said = reason.metadata
        return cls(said.get("rule", message), field=said["field"], given=said["given"])
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        # gRPC itself refuses such a message before the server's code sees it.
        return errors.MessageTooLargeError(
            f"a message must fit the limit of whoever receives it ({message}); raise "
            "--max-message-bytes of the server, or max_message_bytes of connect()"
        )
    return _BY_CODE.get(code, errors.InternalError)(message or code)


def _reason_of(details: bytes) -> error_details_pb2.ErrorInfo | None:
    reason = error_details_pb2.ErrorInfo()
    try:
        for detail in status_pb2.Status.FromString(details).details:
            if detail.Unpack(reason) and reason.domain == DOMAIN:
                return reason
    except DecodeError:
        pass  # somebody else's details, such as a proxy's; the code still says what happened
    return None
