"""What carries a stream's messages: gRPC, and a bypass where there is one.

Threads, of one stream:

    "lossclient-stream"     hears what the server says by gRPC, and how the stream ends
    "lossclient-bypass"     hears what it says by the bypass, if there is one, and no caller looks for
                            its own answer (reading.py)
    gRPC's                  sends what whoever leaves it cannot send at once (outgoing.py)
"""

import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from lossclient.bypass import Bypass, offered
from lossclient.ended import EndedError, TooLongError, UnservedError
from lossclient.forking import starting
from lossclient.joining import Joining
from lossclient.line import SERVICE, Line
from lossclient.outgoing import Outgoing
from lossclient.reading import Reading
from lossclient.waiting import Waiting
from losswire import saying, streaming
from losswire.errors import (
    CancelledError,
    InternalError,
    LossError,
    MessageError,
    MessageTooLargeError,
    NotServedError,
)
from losswire.streaming import Told
from losswire.tensor import Buffer

#: Seconds within which, of a stream that ends, both ways do.
BOTH = 1.0

_NO_MESSAGE = (MessageError, MessageTooLargeError, DecodeError)

_thread = threading.local()


def reading() -> bool:
    """Whether this thread reads a stream: a callback of a future. It must not wait for an answer."""
    return getattr(_thread, "reads", False)


class Carrier:
    """One ComputeStream.

    Parameters:
        line: to the server.
        take: called with what the server says, by one thread at a time.
        expecting: how many answers are to come.
        over: called at the end with how the stream has ended.

    Attributes:
        outgoing: what is to be sent.
        takes_lists: the server has said that it takes lists of calls.
        thread: listens until the end.
    """

    def __init__(
        self,
        line: Line,
        take: Callable[[Told], None],
        expecting: Callable[[], int],
        over: Callable[[LossError], None],
    ) -> None:
        self._target = line.target
        self._line = weakref.ref(line)
        self._take = take
        self._expecting = expecting
        self._over = over
        self._taking = threading.Lock()
        self._bypass: Bypass | None = None
        self._reading: Reading | None = None
        self._offered = False
        self._broken: LossError | None = None
        self._interrupted: LossError | None = None
        # Nothing comes any more: by the bypass; by gRPC.
        self._drained = threading.Event()
        self._ended = threading.Event()
        self.outgoing = Outgoing()
        self._joining = Joining(self._line, self.outgoing)
        self.takes_lists = False
        self.outgoing.put(saying.wish())
        method: Any = line.channel().stream_stream(SERVICE + "ComputeStream")
        starting()
        self._call = method(self.outgoing.messages())
        # Whoever forgets to close a client has no stream left over from it.
        self._forgotten = weakref.finalize(line, _end, self._call, self.outgoing)
        self._forgotten.atexit = False
        self.thread = threading.Thread(target=self._listen, name="lossclient-stream", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self.thread.start()

    def end(self) -> None:
        """End the stream, and the threads that send."""
        _end(self._call, self.outgoing)
        if self._reading is not None:
            self._reading.end()

    def want(self) -> None:
        """See to it that what comes is read: somebody waits who does not look for it."""
        if self._reading is not None:
            self._reading.want()

    def look(self, waiting: Waiting[Any], timeout: float | None) -> None:
        """Look for what a caller waits for, for a moment, if it is likely to come as soon; or `want`."""
        if (reading := self._reading) is None:
            return
        _thread.reads = True
        try:
            reading.look(waiting, timeout)
        except _NO_MESSAGE:
            self._broken = _no_message()
            self.end()
        except BaseException:
            # Others' calls are sent again.
            self._interrupted = EndedError("a caller was interrupted as it read")
            self.end()
            raise
        finally:
            _thread.reads = False

    def took(self, seconds: float) -> None:
        """Note how long an answer took."""
        if self._reading is not None:
            self._reading.took(seconds)

    def _listen(self) -> None:
        """Hear what comes by gRPC, until the stream ends, and then tell how."""
        _thread.reads = True
        try:
            for message in self._call:
                self._heard(message)
            over: LossError = EndedError(f"{self._target} has ended the stream")
        except (MessageError, DecodeError):
            over = _no_message()
            self.end()
        except grpc.RpcError as error:
            over = self._broken or self._interrupted or self._why(error)
        self._ended.set()
        self._joining.over()
        if self._reading is not None:
            self._reading.to_the_end()
            self._drained.wait(BOTH)  # the last answers may be on their way
        self.end()
        # The call is an exception, too, whose traceback leads to all that is to be forgotten.
        self._forgotten.detach()
        self._over(over)

    def _listen_beside(self, offer: Told) -> None:
        """The same by a bypass, if there is one to be had."""
        _thread.reads = True
        try:
            line: socket.socket | None = offered(offer.bypass)
        except OSError:
            line = self._joining.connected(offer.direct_port)
        if line is None:
            return  # all goes on by gRPC
        bypass = self._bypass = Bypass(line)
        self._reading = Reading(bypass, self._heard, self._expecting)
        if self._ended.is_set():
            self._reading.end()
        self.outgoing.go_by(bypass)
        try:
            self._reading.all()
        except _NO_MESSAGE:
            self._broken = _no_message()
        finally:
            bypass.end()
            self._reading.close(lambda: self.outgoing.leave(bypass))
            self._drained.set()
            # How the stream ends gRPC says; and if it does not, it is over all the same.
            if self._broken or not self._ended.wait(BOTH):
                self._joining.failed("the connection ended before its stream")
                self.end()

    def doubt(self, seconds: float) -> None:
        """End the stream if it has a direct connection by which nothing has come for so long."""
        bypass = self._bypass
        if self._joining.used and bypass and time.monotonic() - bypass.heard >= seconds:
            self._joining.failed("nothing came over the connection in time")
            self.end()

    def _heard(self, message: Buffer) -> None:
        told = streaming.read_told(message)
        with self._taking:
            self._take(told)
        if told.joined:
            self._joining.joined()
        if told.takes_lists:
            self.takes_lists = True
        if (told.bypass or told.direct_port) and not self._offered:
            self._offered = True
            beside = threading.Thread(
                target=self._listen_beside,
                args=[told],
                name="lossclient-bypass",
                daemon=True,
            )
            with suppress(RuntimeError):  # no thread more: all goes on by gRPC
                beside.start()

    def _why(self, error: grpc.RpcError) -> LossError:
        line = self._line()
        told = CancelledError("the client is gone") if line is None else line.told(error, None)
        if isinstance(told, MessageTooLargeError):
            return TooLongError(told.rule)
        if isinstance(told, NotServedError):
            return UnservedError(told.rule)
        return told


def _no_message() -> LossError:
    return InternalError("a server must send losswire.v1.ComputeStreamResponse")


def _end(call: Any, outgoing: Outgoing) -> None:
    """End a stream, and the thread that sends."""
    outgoing.end()
    call.cancel()
