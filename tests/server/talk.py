"""A stream's client of another make: plain protobuf."""

import queue
from contextlib import contextmanager

import grpc
import numpy as np
from google.rpc import code_pb2, status_pb2

from lossclient.call import encode_call
from losswire import frame
from losswire.status import DETAILS, from_status
from losswire.v1 import loss_pb2 as pb

L1 = {"type": "L1Loss"}


def request_of(pred=1.0, config=L1, size=4):
    """A call whose loss is |pred|."""
    inputs = {"pred": np.full(size, pred, np.float32), "target": np.zeros(size, np.float32)}
    return pb.ComputeRequest.FromString(frame.write(*encode_call(config, inputs)))


def method_of(channel, name, answer):
    """A method of both directions, to which messages are sent as they are given, bytes as they are."""
    return channel.stream_stream(
        f"/losswire.v1.LossService/{name}",
        request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
        response_deserializer=answer.FromString,
    )


@contextmanager
def opening(kind, target):
    """What opens streams of a kind, at that target or another; they are closed in the end."""
    opened = []

    def start(target=target):
        opened.append(kind(target))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


class Talk:
    """One stream. Messages are sent as they are given, bytes as they are."""

    def __init__(self, target):
        self._channel = grpc.insecure_channel(target, [("grpc.max_receive_message_length", -1)])
        self._to_send = queue.SimpleQueue()
        method = method_of(self._channel, "ComputeStream", pb.ComputeStreamResponse)
        self.call = method(iter(self._to_send.get, None))

    def say(self, *calls, **more):
        """Send a message with these calls."""
        self.send(pb.ComputeStreamRequest(calls=calls, **more))

    def send(self, message):
        """Send a message, or None: there will be no more."""
        self._to_send.put(message)

    def answers(self, count):
        """So many answers, by id."""
        found = {}
        while len(found) < count:
            found |= {answer.id: answer for answer in next(self.call).answers}
        return found

    def end(self):
        """What the stream ended with, answers that are still to come passed over."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            details = [v for k, v in error.trailing_metadata() if k == DETAILS]
            return from_status(error.code().name, error.details(), *details)
        return None

    def close(self):
        """Hang up."""
        self._to_send.put(None)
        self._channel.close()


def loss_of(answer):
    """The loss that an answer has."""
    index = answer.response.header.losses["loss"].tensor_value.payload
    return np.frombuffer(answer.response.payloads[index], np.float32)[0]


def error_of(answer):
    """The error that an answer has."""
    assert answer.WhichOneof("outcome") == "status"
    status = answer.status
    said = status_pb2.Status.FromString(status)
    return from_status(code_pb2.Code.Name(said.code), said.message, status)
