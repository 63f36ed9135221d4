"""A stream's client of another make: plain protobuf."""

import queue
import socket
import struct
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
from google.rpc import code_pb2, status_pb2

from lossclient.call import encode_call
from losswire import frame, offer
from losswire.status import DETAILS, from_status
from losswire.v1 import loss_pb2 as pb
from tests.conftest import PATIENCE

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


def calls_of(*preds, **more):
    """A message with calls whose ids are their places, and whose losses are these."""
    return pb.ComputeStreamRequest(
        calls=[
            pb.StreamCall(id=i, request=request_of(pred, **more)) for i, pred in enumerate(preds)
        ]
    )


def framed(message):
    """A message as it goes over a bypass."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack("<Q", len(content)) + content


class Beside(Talk):
    """A stream with a bypass, by which its calls go."""

    def __init__(self, target):
        super().__init__(target)
        super().send(pb.ComputeStreamRequest(bypass=True))
        self.go_by(socket.socket(fileno=offer.taken(next(self.call).bypass)))

    def go_by(self, line):
        """Send by that socket."""
        self.socket = line
        self.socket.settimeout(PATIENCE)
        self._told = self.socket.makefile("rb")

    def send(self, message):
        """Send a message by the bypass; None, the end, by gRPC."""
        if message is None:
            super().send(None)
        else:
            self.socket.sendall(framed(message))

    def answers(self, count):
        """So many answers that come by the bypass, by id."""
        found = {}
        while len(found) < count:
            (length,) = struct.unpack("<Q", self._received(8))
            told = pb.ComputeStreamResponse.FromString(self._received(length))
            assert not told.bypass
            found |= {answer.id: answer for answer in told.answers}
        return found

    def by_grpc(self, count):
        """So many answers that come by gRPC."""
        return super().answers(count)

    def hung_up(self):
        """Whether the server has closed its end, what it has sent before passed over."""
        with suppress(ConnectionResetError):  # what it had not read yet is gone
            while self._told.read(1 << 16):
                pass
        return True

    def close(self):
        """Hang up, both ways."""
        self._told.close()
        self.socket.close()
        super().close()

    def _received(self, size):
        found = self._told.read(size)
        assert len(found) == size
        return found


class Joined(Beside):
    """A stream whose bypass is a direct connection."""

    def __init__(self, target):
        Talk.__init__(self, target)
        line, name = connected(target)
        Talk.send(self, pb.ComputeStreamRequest(direct=name))
        assert next(self.call).joined
        self.go_by(line)


def direct_port_of(target):
    """The port of direct connections that a server says; 0 for none."""
    with grpc.insecure_channel(target) as channel:
        reply = channel.unary_unary("/losswire.v1.LossService/GetServer")(b"")
    return pb.GetServerResponse.FromString(reply).direct_port


def connected(target):
    """A direct connection to a server, and its name."""
    address = (target.rpartition(":")[0], direct_port_of(target))
    line = socket.create_connection(address, timeout=PATIENCE)
    greeting = line.recv(32, socket.MSG_WAITALL)
    assert greeting.startswith(b"losswire.direct1")
    line.sendall(greeting[16:])
    assert line.recv(1) == b"\1"
    return line, greeting[16:]


def descriptors(pid="self"):
    """How many a process has open."""
    return len(list(Path("/proc", str(pid), "fd").iterdir()))
