"""The client: one object for a training loop, its threads and its forked workers."""

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lossclient.again import call_messages
from lossclient.background import Background
from lossclient.call import call_message, encode_call
from lossclient.dense import dense
from lossclient.estimating import estimate, learned
from lossclient.many import Finish, send_many
from lossclient.planes import Planes
from lossclient.reply import Result, decode_replies, decode_reply
from lossclient.resident import handle_of
from lossclient.terms import USUAL, Terms, WireDtype
from losswire import tensor
from losswire.cost import Estimate
from losswire.errors import LossError
from losswire.frame import Parts
from losswire.resident import Handle
from losswire.runs import Run
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader


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
        self._submitted: Background | None = None

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
        wire_dtype: WireDtype = None,
        grad_keep: float | None = None,
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
            wire_dtype, grad_keep: for this call in place of the client's; {} and 1 for none.
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
            wire_dtype=wire_dtype,
            grad_keep=grad_keep,
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

    def compute_many(
        self,
        calls: Iterable[Mapping[str, Any] | Sequence[Any]],
        *,
        timeout: float | None = 30.0,
        return_errors: bool = False,
    ) -> list[Any]:
        """`compute` of several calls at once, sent in one message if they are small.

        Parameters:
            calls: for each a dict of the arguments of `compute`, or a tuple of the first of them.
            timeout: seconds for all of them, retries included; None is for ever.
            return_errors: give the error of a call that failed in place of its result. Else the
                first of them is raised, once all calls have ended; a note says which call it is of.

        Returns:
            A Result for each call, in order.

        Raises:
            RequestError: a call is at fault; its message names field and rule.
            ServiceError: the server is, or is not there.
        """
        messages = call_messages(calls, self.terms)
        found = send_many(self.planes, messages, timeout, Finish(_result, _results))
        if not return_errors:
            for place, one in enumerate(found):
                if isinstance(one, LossError):
                    one.add_note(f"of call {place} of {len(found)}")
                    raise one
        return found

    def submit(self, *args: Any, timeout: float | None = 30.0, **kwargs: Any) -> "Future[Result]":
        """`compute` with the same arguments, not waited for.

        The arrays are read before it returns: they may be overwritten then.
        """
        return self.start(call_message(*args, terms=self.terms, **kwargs), timeout)

    def _receive(self, parts: Parts, timeout: float | None) -> Result:
        return _result(self.send(parts, timeout))

    def send(self, parts: Parts, timeout: float | None) -> Parts:
        """The parts of the reply to a ComputeRequest of these parts, for adapters."""
        return self.planes.send(parts, timeout)

    def start(self, parts: Parts, timeout: float | None) -> "Future[Result]":
        """What becomes of a ComputeRequest of these parts, not waited for, for adapters."""
        own = parts._replace(payloads=[bytes(payload) for payload in parts.payloads])
        return self._background().submit(own, timeout, _result)

    def empty(
        self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32, timeout: float | None = 30.0
    ) -> npt.NDArray[Any]:
        """An array to write `pred` into, which then need not be copied for a call.

        It lies in memory shared with the server, if there is any, and is otherwise an
        array like any other. What it holds at first is anything. Of another array, as
        long as that lies C-contiguous in this one, the same is true.

        Parameters:
            shape: its extents.
            dtype: its element type.
            timeout: seconds to ask the server for memory.

        Raises:
            ServiceError: the server is at fault, or is not there.
        """
        kind = np.dtype(dtype)
        memory = self.planes.empty(max(1, math.prod(shape)) * kind.itemsize, timeout)
        return np.frombuffer(memory, kind, math.prod(shape)).reshape(shape)

    def put(self, array: Any, timeout: float | None = 30.0) -> Handle:
        """Leave a tensor with the server; the handle takes its place in any call.

        What the server has is not sent again. It keeps a tensor for a while after
        its last use, if there is room; when it has let it go, or the call goes to
        another server, the next call puts it there again by itself. For that the
        handle holds a copy of the bytes; the array may be overwritten. A result of a
        call with a handle is that of a call with the array.

        Parameters:
            array: an array, or a handle.
            timeout: seconds for everything, retries included; None is for ever.

        Raises:
            TensorError: it is nothing that travels.
            MessageTooLargeError: the server keeps nothing so large.
            NotServedError: the server keeps nothing.
            ServiceError: the server is at fault, or is not there.
        """
        return self.planes.put(handle_of(array), timeout)

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """`lossclient.estimate` with the same arguments, by what calls to this server take now.

        Some dozens of calls are made to find that out.

        Raises:
            LossError: as `compute`.
        """
        return estimate(*args, costs=learned(self.transport), terms=self.terms, **kwargs)

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
        if self._submitted is not None and self._submitted.usable:
            self._submitted.close()

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

    def _background(self) -> Background:
        made = self._submitted
        if made is not None and not made.usable:
            self._lock = threading.Lock()  # the parent may have forked while it was held
        with self._lock:
            self.transport.check_open()
            if self._submitted is None or not self._submitted.usable:
                self._submitted = Background(self.planes)
            return self._submitted


def _result(reply: Parts) -> Result:
    return decode_reply(reply, _to_numpy)


def _results(replies: Run) -> list[Result]:
    return decode_replies(replies, _to_numpy, _all_to_numpy)


def _to_numpy(given: TensorBytes) -> Any:
    """A float for a scalar, else an array of its own, writable memory."""
    array = tensor.unpack(given)
    if not given.shape:
        return array.item()
    return array if array.flags.writeable else array.copy()


def _all_to_numpy(given: TensorBytes) -> list[Any]:
    """The same of several tensors, of as many rows."""
    array = tensor.unpack(given)
    if len(given.shape) == 1:
        return [*array.tolist()]
    return list(array if array.flags.writeable else array.copy())


def _parameter(found: pb.Parameter) -> dict[str, Any]:
    out: dict[str, Any] = {"type": found.type, "text": found.text}
    if found.HasField("default"):
        out["default"] = Reader([], tensor.unpack).read(found.default, found.name)
    return out
