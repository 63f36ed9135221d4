"""The shared memory that a client has of a server, and who uses which of it.

A region is used again for calls of about its size: fresh memory costs more than
what is written to it. It is in use for as long as anybody refers to an array that
lies in it, which may be longer than the connection lasts.
"""

import itertools
import mmap
import threading
import weakref
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lossclient.stream import Stream
from losswire import region
from losswire.errors import NotServedError, OverloadedError
from losswire.region import ALIGNMENT
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb

#: Regions that nobody uses and that are kept for calls to come.
IDLE = 8

#: Bytes of the first region, which only shows that there can be others.
TRIAL = 1 << 12


class UnsharedError(Exception):
    """The call must go another way: no memory can be shared with its server, or no more of it."""


class FullError(UnsharedError):
    """No more of it for now."""


class Region(NamedTuple):
    """A region of a stream."""

    number: int
    size: int
    memory: mmap.mmap
    address: int


class Lease(NamedTuple):
    """A region in use, until nobody refers to the array any more.

    Attributes:
        region: which.
        array: its bytes.
    """

    region: Region
    array: npt.NDArray[np.uint8]


class Regions:
    """The regions of a stream.

    Parameters:
        stream: whose they are.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        # Those last used stand last.
        self._idle: list[Region] = []
        # Filled by whoever drops the last reference, in the middle of anything; so without a lock.
        self._returned: deque[Region] = deque()
        self._given_up: set[int] = set()
        self._leased: dict[int, Region] = {}
        self._shares: bool | None = None

    def take(self, size: int, timeout: float | None) -> Lease:
        """A region of at least so many bytes.

        Raises:
            UnsharedError: there is none to be had.
            LossError: the server cannot be asked.
        """
        # The lock is not held while the server is asked: others have timeouts of their own.
        self._try(timeout)
        with self._lock:
            self._reclaim()
            found = self._fitting(size)
        found = found or self._opened(_rounded(size), timeout)
        self._leased[found.number] = found
        array = np.frombuffer(found.memory, np.uint8)
        weakref.finalize(array, self._returned.append, found).atexit = False
        return Lease(found, array)

    def find(self, payload: Buffer) -> pb.Span | None:
        """Where in a region that is in use a payload lies; None if it does not."""
        array = np.frombuffer(payload, np.uint8)
        for one in list(self._leased.values()):
            offset = array.ctypes.data - one.address
            if 0 <= offset <= one.size - len(array) and not offset % ALIGNMENT:
                return pb.Span(region=one.number, offset=offset, bytes=len(array))
        return None

    def give_up(self, lease: Lease) -> None:
        """Use a region no more: the server may still be at it."""
        with self._lock:
            self._leased.pop(lease.region.number, None)
            self._given_up.add(lease.region.number)
            self.stream.close_region(lease.region.number)

    def close(self) -> None:
        """Let go of what nobody uses. The rest goes with its arrays."""
        with self._lock:
            self._idle.clear()
        self._returned.clear()

    def _try(self, timeout: float | None) -> None:
        """Find out whether memory can be shared, once, or by some threads at the same time."""
        if self._shares is None:
            try:
                trial = self._opened(TRIAL, timeout)
            except FullError:
                raise
            except UnsharedError:
                self._shares = False
                raise
            self.stream.close_region(trial.number)
            self._shares = True
        if not self._shares:
            raise UnsharedError(f"no memory is shared with {self.stream}")

    def _reclaim(self) -> None:
        while self._returned:
            back = self._returned.popleft()
            self._leased.pop(back.number, None)
            if back.number in self._given_up:
                self._given_up.discard(back.number)
            else:
                self._idle.append(back)
        while len(self._idle) > IDLE:
            self.stream.close_region(self._idle.pop(0).number)

    def _fitting(self, size: int) -> Region | None:
        """The smallest that nobody uses and that is neither too small nor much too large."""
        fitting = [one for one in self._idle if size <= one.size <= 4 * _rounded(size)]
        found = min(fitting, key=lambda one: one.size, default=None)
        if found is not None:
            self._idle.remove(found)
        return found

    def _opened(self, size: int, timeout: float | None) -> Region:
        number = next(self._numbers)
        try:
            name = self._named(number, size, timeout)
        except NotServedError as error:
            raise UnsharedError(str(error)) from None
        except OverloadedError as error:
            raise FullError(str(error)) from None
        try:
            memory = region.taken(name, size)
        except OSError as error:
            self.stream.close_region(number)
            raise UnsharedError(f"no memory is shared with {self.stream}: {error}") from None
        return Region(number, size, memory, np.frombuffer(memory, np.uint8).ctypes.data)

    def _named(self, number: int, size: int, timeout: float | None) -> str:
        """The name of a new region; if there is no room for it, what nobody uses makes some."""
        try:
            return self.stream.open_region(number, size, timeout)
        except OverloadedError:
            if not self._idle:
                raise
        with self._lock:
            while self._idle:
                self.stream.close_region(self._idle.pop().number)
        return self.stream.open_region(number, size, timeout)


def _rounded(size: int) -> int:
    """A size for it and for those a little smaller and larger, so that they find each other's."""
    step = max(1 << 12, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step
