"""Calls in pieces for tests, by a client of another make: plain protobuf."""

import queue
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from lossclient.call import encode_call
from losswire.layout import layout
from losswire.status import DETAILS, from_status
from losswire.v1 import loss_pb2 as pb
from tests.server.talk import method_of

CE = {"type": "CrossEntropyLoss"}

PATIENCE = 60


class Talk:
    """One ComputeLarge. Messages are sent as they are given, bytes as they are."""

    def __init__(self, target, timeout=PATIENCE):
        self._channel = grpc.insecure_channel(target)
        self._to_send = queue.SimpleQueue()
        method = method_of(self._channel, "ComputeLarge", pb.ComputeLargeResponse)
        self.call = method(iter(self._to_send.get, None), timeout=timeout)

    def say(self, *messages):
        """Send messages; None: there will be no more."""
        for message in messages:
            self._to_send.put(message)

    def answer(self, *early):
        """The header, and the payloads by number; `early` are pieces that have come already."""
        payloads = {one.payload: bytearray(one.content) for one in early}
        for message in self.call:
            if message.HasField("header"):
                header = message.header
                continue
            found = message.piece
            payloads.setdefault(found.payload, bytearray())
            assert found.offset == len(payloads[found.payload])
            payloads[found.payload] += found.content
        return header, payloads

    def refusal(self):
        """What the server says is wrong."""
        with pytest.raises(grpc.RpcError) as told:
            list(self.call)
        error = told.value
        details = [item.value for item in error.trailing_metadata() if item.key == DETAILS]
        return from_status(error.code().name, error.details(), *details)

    def close(self):
        """Hang up."""
        self._to_send.put(None)
        self._channel.close()


class Made:
    """A call: its arrays, its header, and its pieces in order."""

    def __init__(self, config=CE, rows=512, columns=2048, step=1 << 20, target=None, **more):
        generator = np.random.default_rng(rows)
        self.config, self.more = config, more
        self.pred = generator.random((rows, columns), np.float32) * 0.9
        self.target = generator.integers(0, columns, rows) if target is None else target(self.pred)
        inputs = {"pred": self.pred, "target": self.target}
        parts = encode_call(config, inputs, **{"wrt": ["pred"]} | more)
        header = pb.ComputeHeader.FromString(parts.header)
        self.header = pb.ComputeLargeRequest(header=header)
        self.target_pieces, self.pred_pieces = (
            [
                piece(number, start, bytes(parts.payloads[number][start : start + step]))
                for number in numbers
                for start in range(0, len(parts.payloads[number]), step)
            ]
            for numbers in (layout(header).others, layout(header).pred)
        )

    @property
    def messages(self):
        return [self.header, *self.target_pieces, *self.pred_pieces]

    def assert_answered(self, answer, client):
        """As the same call in one message is."""
        header, payloads = answer
        expected = client.compute(self.config, self.pred, self.target, **self.more)
        loss = header.losses["loss"].tensor_value
        found = np.frombuffer(payloads[loss.payload], np.float32).reshape(tuple(loss.shape))
        np.testing.assert_allclose(found, expected.loss, rtol=1e-5)
        assert set(header.grads) == set(expected.grads)
        for name, value in header.grads.items():
            grad = value.tensor_value
            found = np.frombuffer(payloads.get(grad.payload, b""), np.float32)
            found = found.reshape(tuple(grad.shape))
            np.testing.assert_allclose(found, expected.grads[name], rtol=1e-5, atol=1e-9)


def piece(payload, offset, content):
    return pb.ComputeLargeRequest(piece=pb.Piece(payload=payload, offset=offset, content=content))


def labels_like(pred):
    """0 and 1 in turn."""
    return (np.arange(pred.size) % 2).reshape(pred.shape).astype(np.float32)


@contextmanager
def beginning(kind, target):
    """What begins calls of that kind with the server there, or with another; they are closed after."""
    begun = []

    def begin(other=None, **more):
        begun.append(kind(other or target, **more))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()
