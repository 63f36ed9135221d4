"""The client: one object for a training loop, its threads and its forked workers."""

import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc

from lossclient.call import USUAL, Result, Terms, call_message, decode_reply, encode_call
from lossclient.dense import dense
from lossclient.line import Line
from lossclient.planes import Planes
from lossclient.transport import Retry, Transport
from losswire import frame, tensor
from losswire.frame import Parts
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader

#: Calls of `submit` in flight at once; more wait their turn.
SUBMITTED_AT_ONCE = 64


def connect(
    target: str = "localhost:50051",
    *,
    credentials: grpc.ChannelCredentials | None = None,
    retry: Retry | None = None,
    max_message_bytes: int = -1,
    priority: str = "usual",
) -> "Client":
    """A client of the server at `target`. Nothing is sent before the first call.

    Parameters:
        target: "host:port", "unix:/path" or any other gRPC target.
        credentials: for TLS, such as grpc.ssl_channel_credentials(); None is unencrypted.
        retry: how calls are repeated when no server answers.
        max_message_bytes: bytes of a reply; -1 for no limit.
        priority: "high", "usual" or "low": whose calls go first where they wait for a device.
    """
    if not isinstance(target, str):
        raise TypeError(f"target must be one text such as 'localhost:50051'; given {target!r}")
    line = Line(target, credentials, max_message_bytes)
    return Client(Planes(Transport(line, retry or Retry())), Terms(priority=priority))


class Client:
    """Losses and gradients from a server. Made by `connect`.

    May be used from many threads, and in a process forked from the one that
    made it. A context manager: leaving it closes it.
    """

    def __init__(self, planes: Planes, terms: Terms = USUAL) -> None:
        self.planes = planes
        self.transport = planes.transport
        self.terms = terms
        self._lock = threading.Lock()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def compute(
        self,
        cfg: Mapping[str, Any],
        pred: Any,
        target: Any = None,
        weight: Any = None,
        avg_factor: float | Mapping[str, float] | None = None,
        reduction_override: str | Mapping[str, str] | None = None,
        *,
        grad_output: Any = None,
        wrt: Iterable[str] = ("pred",),
        state: Any = None,
        timeout: float | None = 30.0,
        **more: Any,
    ) -> Result:
        """The loss that `cfg` describes, and its gradients.

        Parameters:
            cfg: MMDetection's config dict, such as dict(type="FocalLoss", gamma=2.0).
            pred: array, or nested dicts and lists of arrays.
            target: likewise.
            weight: likewise, of the shapes the loss takes.
            avg_factor: divisor of a mean, in place of the number of elements; for a sum of
                losses also a dict of them by part.
            reduction_override: "none", "mean" or "sum", in place of the config's; likewise.
            grad_output: upstream gradient, shaped like the loss, or a dict of them by the name
                of a part; ones if it is left out.
            wrt: names of the inputs whose gradients to return; () for the loss alone.
            state: `state` of the last result, for a loss that remembers.
            timeout: seconds for everything, retries included; None is for ever.
            more: the loss's own inputs, such as ignore_index, by upstream's names.

        Raises:
            RequestError: the call is at fault; its message names field and rule.
            ServiceError: the server is, or is not there.
        """
        message = call_message(
            cfg,
            pred,
            target,
            weight,
            avg_factor,
            reduction_override,
            grad_output=grad_output,
            wrt=wrt,
            state=state,
            terms=self.terms,
            **more,
        )
        return self._receive(message, timeout)

    def assign(
        self,
        cfg: Mapping[str, Any],
        target: Any,
        *,
        featmap_sizes: Any = None,
        anchors: Any = None,
        pred: Any = None,
        seed: int = 0,
        with_anchors: bool = False,
        timeout: float | None = 30.0,
    ) -> dict[str, Any]:
        """What a head's anchors are to predict, without sending predictions.

        Parameters:
            cfg: config of a head over anchors, or of an assigner.
            target: dict(gt_bboxes=[...], gt_labels=[...], img_metas=[...]), an entry an image.
            featmap_sizes: height and width of each level's map, of a head; or
            anchors: a list of arrays [n, 4], one a level.
            pred: of an assigner that looks at predictions: dict(scores=[...], bboxes=[...]).
            seed: of a sampler that chooses at random.
            with_anchors: of a head, send the anchors back, too.
            timeout: seconds for everything, retries included.

        Returns:
            Of a head: labels, label_weights, bbox_targets and bbox_weights, an array [B, n, ...] a
            level; pos_inds, neg_inds and pos_gt_inds, an array an image, among the anchors of all
            levels; avg_factor, an int; anchors, an array [n, 4] a level if asked for. Only the
            positives travel, and the rest is filled in here. Of an assigner: gt_inds, labels and
            max_overlaps, an array an image.

        Raises:
            RequestError: the call is at fault; its message names image and field.
            ServiceError: the server is, or is not there.
        """
        sizes = None
        if featmap_sizes is not None:
            sizes = [[int(side) for side in size] for size in featmap_sizes]
        inputs = {"target": target, "featmap_sizes": sizes, "anchors": anchors, "pred": pred}
        inputs |= {"seed": seed, "with_anchors": with_anchors}
        config = {"type": "Assign", "of": cfg}
        message = encode_call(config, inputs, wrt=(), terms=self.terms)
        told = self._receive(message, timeout).losses
        return dense(told) if "counts" in told else told

    def submit(self, *args: Any, timeout: float | None = 30.0, **kwargs: Any) -> "Future[Result]":
        """`compute` with the same arguments, not waited for.

        The arrays are read before it returns: they may be overwritten then.
        """
        message = frame.write(*call_message(*args, terms=self.terms, **kwargs))
        return self._executor().submit(self._receive, frame.read(message), timeout)

    def _receive(self, parts: Parts, timeout: float | None) -> Result:
        return decode_reply(self.send(parts, timeout), _to_numpy)

    def send(self, parts: Parts, timeout: float | None) -> Parts:
        """The parts of the reply to a ComputeRequest of these parts, for adapters."""
        return self.planes.send(parts, timeout)

    def losses(self, timeout: float = 30.0) -> dict[str, dict[str, Any]]:
        """The server's catalogue: for each name its card.

        A card has the summary, the whole text, parameters and inputs by name, the source, the
        names of outputs, and whether it is batchable with other callers' rows and remembers.
        """
        reply = self.transport.call(
            "ListLosses", pb.ListLossesRequest().SerializeToString(), timeout
        )
        return {
            found.name: {
                "summary": found.summary,
                "text": found.text,
                "parameters": {p.name: _parameter(p) for p in found.parameters},
                "inputs": {i.name: {"text": i.text, "required": i.required} for i in found.inputs},
                "source": found.source,
                "batchable": found.batchable,
                "remembers": found.remembers,
                "outputs": list(found.outputs),
            }
            for found in pb.ListLossesResponse.FromString(reply).losses
        }

    def server(self, timeout: float = 30.0) -> pb.GetServerResponse:
        """What the server is and accepts: version, devices, planes, limits."""
        request = pb.GetServerRequest().SerializeToString()
        return pb.GetServerResponse.FromString(self.transport.call("GetServer", request, timeout))

    def close(self) -> None:
        """Close the connection. A closed client raises ValueError when it is used."""
        with self._lock:
            self.transport.close()
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown(wait=False, cancel_futures=True)

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent to a spawned worker, a client arrives as what it was made from, without connection.
        return Client, (self.planes, self.terms)

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        # An averaged copy of a model shares its client, as it shares its machine.
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _executor(self) -> ThreadPoolExecutor:
        if self._pool is not None and self._pool[0] != os.getpid():
            self._lock = threading.Lock()  # the parent may have forked while it was held
        with self._lock:
            self.transport.check_open()
            if self._pool is None or self._pool[0] != os.getpid():
                self._pool = os.getpid(), ThreadPoolExecutor(SUBMITTED_AT_ONCE, "lossclient")
            return self._pool[1]


def _to_numpy(given: TensorBytes) -> Any:
    """A float for a scalar, else an array of its own, writable memory."""
    array = tensor.unpack(given)
    return array.copy() if given.shape else array.item()


def _parameter(found: pb.Parameter) -> dict[str, Any]:
    out: dict[str, Any] = {"type": found.type, "text": found.text}
    if found.HasField("default"):
        out["default"] = Reader([], tensor.unpack).read(found.default, found.name)
    return out
