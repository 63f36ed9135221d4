"""How a client is made: of what servers, and how it asks them."""

from collections.abc import Sequence

import grpc

from lossclient.client import Client
from lossclient.hedge import Hedge
from lossclient.line import Line
from lossclient.planes import Plane, Planes
from lossclient.retry import OnUnavailable, Retry
from lossclient.targets import Targets
from lossclient.terms import Terms, WireDtype
from lossclient.transport import Transport


def connect(
    target: str | Sequence[str] = "localhost:50051",
    *,
    credentials: grpc.ChannelCredentials | None = None,
    retry: Retry | None = None,
    hedge: Hedge | bool = False,
    on_unavailable: OnUnavailable = "wait",
    max_message_bytes: int = -1,
    priority: str = "usual",
    wire_dtype: WireDtype = None,
    grad_keep: float | None = None,
    plane: Plane = "auto",
) -> Client:
    """A client of the server at `target`, or of several. Nothing is sent before the first call.

    Parameters:
        target: "host:port", "unix:/path" or any other gRPC target; or a list of them, any of which
            may answer any call. Calls go to one of them as long as it answers. "dns:///name:port"
            is all servers of that name, in turn.
        credentials: for TLS, such as grpc.ssl_channel_credentials(); None is unencrypted.
        retry: how calls are repeated when no server answers.
        hedge: send a call that takes unusually long to a second target as well; True is `Hedge()`.
        on_unavailable: what a call does when no server answers: "wait" for one until its timeout,
            "raise" at once, or compute in this process ("local", with lossserver[server]).
        max_message_bytes: bytes of a reply; -1 for no limit.
        priority: "high", "usual" or "low": whose calls go first where they wait for a device.
        wire_dtype: "bfloat16", "float16" or "int8": the type in which the float32 and float64 of
            `pred` and of all gradients travel; they are rounded to it. (With int8, gradients are
            bfloat16.) Or a map of types by name of an input, gradients being "grad": {"grad":
            "bfloat16"} rounds gradients alone.
        grad_keep: the share of each gradient's elements to receive, those largest by magnitude;
            the others are 0. `Result.kept` says how much that was.
        plane: how calls travel: "inline" (a message each), "pieces" (of a large call, both ways at
            once), "shared" (memory of this machine), each used for all calls or none; "stream" (one
            stream for all; a message each where the server has no streams); "auto" is the fastest
            of those that there are.

    Raises:
        TypeError, ValueError, SpecError: an argument is none of these.
        ModuleNotFoundError: what computes locally is not installed.
    """
    targets = Targets([Line(one, credentials, max_message_bytes) for one in _targets(target)])
    hedging = hedge if isinstance(hedge, Hedge) else Hedge() if hedge else None
    transport = Transport(targets, retry or Retry(), hedging, on_unavailable)
    terms = Terms(priority=priority, wire_dtype=wire_dtype, grad_keep=grad_keep)
    return Client(Planes(transport, plane), terms)


def _targets(given: str | Sequence[str]) -> list[str]:
    """The targets, of which no two are the same."""
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise TypeError(
            f"target must be a text such as 'localhost:50051', or a list of them; given {given!r}"
        )
    if not found or len(set(found)) < len(found):
        raise ValueError(f"target must be one or more, none of them twice; given {given!r}")
    return list(found)
