"""The one place where an exception becomes what a caller is told."""

import logging
import uuid
from collections.abc import Sequence

from lossserver.faults import is_full, out_of_memory
from lossserver.outline import refused
from lossserver.registry import RefusedError
from losswire import saying
from losswire.errors import InternalError, LossError
from losswire.status import to_status
from losswire.tensor import Buffer

log = logging.getLogger("lossserver")


def told(error: Exception) -> LossError:
    """What the caller is told of an exception: never a traceback, never an unknown text."""
    if isinstance(error, LossError):
        return error
    if isinstance(error, RefusedError):
        return refused(error)
    if is_full(error):
        return out_of_memory(error)
    request = uuid.uuid4().hex[:12]
    log.error("request %s", request, exc_info=error)
    return InternalError(f"the server failed; its log has the details under request {request}")


def statuses(ids: Sequence[int], error: Exception) -> tuple[str, str, list[Buffer]]:
    """Code and text of what went wrong, and what a message that says so of these calls is joined of."""
    what = told(error)
    let_go(error)
    code, status = to_status(what)
    written = [buffer for number in ids for buffer in saying.status(number, status)]
    return code, str(what), written


def let_go(error: BaseException | None) -> None:
    """Take the frames out of an exception: gRPC keeps it for a while, and they hold the call's bytes."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
