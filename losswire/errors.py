"""Every error a caller can be told about, on either side of the wire.

    LossError
    ├── RequestError          the request is at fault; sending it again will not help
    │   ├── MessageError          INVALID_ARGUMENT   the bytes are not a request
    │   ├── SpecError             INVALID_ARGUMENT   a parameter or option is missing, unknown or out of range
    │   ├── TensorError           INVALID_ARGUMENT   dtype, shape, byte count or values do not fit
    │   ├── UnknownLossError      NOT_FOUND          no such name in the registry
    │   ├── NotResidentError      FAILED_PRECONDITION a digest names no tensor that is with the server
    │   ├── MessageTooLargeError  RESOURCE_EXHAUSTED the message is over the server's limit
    │   ├── OutOfMemoryError      RESOURCE_EXHAUSTED the device's memory does not hold the call
    │   └── NotServedError        UNIMPLEMENTED      this server does not offer that
    └── ServiceError          the service is at fault, or out of time; the same call may succeed later
        ├── OverloadedError       RESOURCE_EXHAUSTED too much in flight
        ├── DrainingError         UNAVAILABLE        the server is shutting down
        ├── UnreachableError      UNAVAILABLE        no server answers at the target
        ├── DeadlineError         DEADLINE_EXCEEDED  the time was up before the answer was there
        ├── CancelledError        CANCELLED          the call was given up on this side
        └── InternalError         INTERNAL           a fault of the server; its log has the request id

The server raises these; the client raises the same classes. `STATUS` is the
only place that knows how one becomes the other.

A message reads: the field, the rule, what was given.
"""

#: Bytes of a text that an error repeats. A status travels in HTTP/2 headers, of which many peers take
#: 8 KiB in all, three times as a text and once more as base64; and what it repeats was chosen by a
#: stranger.
MAX_TEXT = 300


class LossError(Exception):
    """Base of every error named here. Catch it to catch them all.

    Attributes:
        rule: what must hold, as a sentence.
        field: the part of the request at fault, such as "pred" or "config.gamma"; may be empty.
        given: what was there instead; may be empty.
    """

    def __init__(self, rule: str, *, field: str = "", given: object = "") -> None:
        self.rule = _shortened(rule)
        self.field = _shortened(field)
        self.given = _shortened(str(given))
        where = f"{self.field}: " if self.field else ""
        said = f"; given {self.given}" if self.given else ""
        super().__init__(f"{where}{self.rule}{said}")


class RequestError(LossError):
    """The request is at fault. Not retried."""


class MessageError(RequestError):
    """The bytes are not a request: malformed, or payloads and header disagree."""


class SpecError(RequestError):
    """A parameter of the loss or an option of the call is missing, unknown or out of range."""


class TensorError(RequestError):
    """A tensor's dtype, shape, byte count or values do not fit each other or the loss."""


class UnknownLossError(RequestError):
    """The registry has no loss of this name."""


class NotResidentError(RequestError):
    """A digest names no tensor that is with the server, or not any longer. The client puts it again."""


class MessageTooLargeError(RequestError):
    """The message is over the server's limit."""


class OutOfMemoryError(RequestError):
    """The device's memory does not hold the call, even alone."""


class NotServedError(RequestError):
    """The server does not offer what was asked for."""


class ServiceError(LossError):
    """The service is at fault, or the time was too short."""


class OverloadedError(ServiceError):
    """Admission refused the job: too much is in flight."""


class DrainingError(ServiceError):
    """The server has begun to shut down and takes no new jobs. The client retries it."""


class UnreachableError(ServiceError):
    """No server answers at the target. The client retries it."""


class DeadlineError(ServiceError):
    """The deadline passed before the answer was there."""


class CancelledError(ServiceError):
    """The call was given up on this side: the client was closed, or its caller cancelled."""


class InternalError(ServiceError):
    """A fault of the server. Its log has the details under the request id in the message."""


def _shortened(text: str) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_TEXT:
        return text
    return encoded[: MAX_TEXT - 3].decode(errors="ignore") + "…"


#: Class ⇄ (status, reason). Read both ways: the server looks up the class, the client the pair.
STATUS: dict[type[LossError], tuple[str, str]] = {
    MessageError: ("INVALID_ARGUMENT", "MESSAGE"),
    SpecError: ("INVALID_ARGUMENT", "SPEC"),
    TensorError: ("INVALID_ARGUMENT", "TENSOR"),
    UnknownLossError: ("NOT_FOUND", "UNKNOWN_LOSS"),
    NotResidentError: ("FAILED_PRECONDITION", "NOT_RESIDENT"),
    MessageTooLargeError: ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"),
    OutOfMemoryError: ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY"),
    NotServedError: ("UNIMPLEMENTED", "NOT_SERVED"),
    OverloadedError: ("RESOURCE_EXHAUSTED", "OVERLOADED"),
    DrainingError: ("UNAVAILABLE", "DRAINING"),
    UnreachableError: ("UNAVAILABLE", "UNREACHABLE"),
    DeadlineError: ("DEADLINE_EXCEEDED", "DEADLINE"),
    CancelledError: ("CANCELLED", "CANCELLED"),
    InternalError: ("INTERNAL", "INTERNAL"),
}
