"""Memory that stays: what this process frees it keeps for its next call, up to a bound.

glibc gives a large block back to the kernel when it is freed, and the next block
of that size is paid for again, a page fault every 4 KiB: for 128 MiB of logits
that costs several times as much as their loss. Here glibc is told, in the
process and with no environment variable, to take all blocks from its heap and
to keep the heap.

Freed blocks in the middle of a heap would stay for ever, so a thread looks each
second at what is kept; where that is above the bound, all of it goes back. So
for some seconds more than the bound may be kept, but not for long.

Other allocators than glibc's are left alone (musl, macOS, a preloaded jemalloc):
`keep` says so and changes nothing.
"""

import ctypes
import functools
import os
import threading
from pathlib import Path
from typing import Any

#: Bytes that a server keeps unless it is told otherwise: what a call of 128 MiB takes at its peak.
USUAL = 1 << 30

#: Seconds between two looks at what is kept, each some 30 µs; and seconds of rest after one that gave
#: back too much. Giving back takes 0.11 s a GiB, in which no thread gets memory.
PERIOD = 1.0
REST = 10.0

# Of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_MAX = -4
_ARENA_MAX = -8

#: glibc's own values of these.
_DEFAULTS = {_TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10, _MMAP_MAX: 65536}

#: The largest heap of an arena that is not the first. With a top pad of this size no such heap is
#: given back as long as its arena is in use.
_HEAP_MAX = 64 << 20


class _Counts(ctypes.Structure):
    """What mallinfo2 gives, in bytes where it is not a count."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


class _Watch(threading.Thread):
    """Keeps what is kept within its bound.

    Parameters:
        most: bytes that may be kept.
    """

    def __init__(self, most: int) -> None:
        super().__init__(name="memory", daemon=True)
        self.most = most
        self._ended = threading.Event()
        self._others = _resident() - _in_use()

    def run(self) -> None:
        """Look, and wait, until the end."""
        wait = PERIOD
        while not self._ended.wait(wait):
            wait = REST if self.look() else PERIOD

    def look(self) -> bool:
        """Give all back that is kept if it is too much; whether it was."""
        if self.kept() <= self.most:
            return False
        give_back()
        # Now nothing is kept: what is resident and not in use is not malloc's.
        self._others = _resident() - _in_use()
        return True

    def kept(self) -> int:
        """Bytes that are free and still ours. Python's own arenas are not malloc's, so: about."""
        return max(0, _resident() - _in_use() - self._others)

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()


_watches: list[_Watch] = []


def keep(most: int = USUAL, *, arenas: int = 0) -> bool:
    """Keep what this process frees, up to `most` bytes; 0 keeps nothing any longer.

    Blocks that are in use stay where they are, so it helps from the next large
    block on. Done again, it changes the bound.

    Parameters:
        most: bytes.
        arenas: heaps at most; 0 leaves that to glibc, which makes some for threads. These have no
            room for blocks over 64 MiB, and keep up to 64 MiB each beside the bound. At 1 all
            threads share the first heap, which has neither fault; only before there are threads.

    Returns:
        Whether memory is kept: the allocator is one that can be told.

    Raises:
        ValueError: `most` or `arenas` is negative.
    """
    if most < 0 or arenas < 0:
        raise ValueError(f"bytes and arenas must be at least 0; given {most} and {arenas}")
    libc = _glibc()
    if libc is None:
        return False
    _stop()
    options = dict(_DEFAULTS)
    if most:
        options = {_TRIM_THRESHOLD: min(most, 2**31 - 1), _TOP_PAD: _HEAP_MAX, _MMAP_MAX: 0}
    if arenas:
        options[_ARENA_MAX] = arenas
    for option, value in options.items():
        libc.mallopt(option, value)
    if not most:
        give_back()
        return False
    watch = _Watch(most)
    _watches.append(watch)
    watch.start()
    return True


def kept() -> int:
    """Bytes that are free and kept, about; 0 where nothing is."""
    return sum(watch.kept() for watch in _watches)


def give_back() -> None:
    """Give back now what is free. It stays with the process's heap as address space alone."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _stop() -> None:
    while _watches:
        _watches.pop().end()


def _forked() -> None:
    """A child was not asked, and has no thread that would keep it within the bound."""
    libc = _glibc()
    if _watches and libc is not None:
        _watches.clear()  # not `_stop`: the thread may have held its lock, and is not there
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)


os.register_at_fork(after_in_child=_forked)


@functools.cache
def _glibc() -> Any:
    """The C library, if it is a glibc (2.33 on) whose malloc this process uses; else None."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (musl has none)
        libc.mallinfo2.restype = _Counts
        libc.malloc_trim.argtypes = [ctypes.c_size_t]
    except (AttributeError, OSError, TypeError):
        return None
    # A preloaded allocator has a malloc of its own, and glibc's counts stay at nothing.
    return libc if libc.mallinfo2().uordblks and Path("/proc/self/statm").exists() else None


def _in_use() -> int:
    """Bytes of all blocks that are not free."""
    counts = _glibc().mallinfo2()
    used: int = counts.uordblks + counts.hblkhd
    return used


def _resident() -> int:
    """Bytes of memory that are the process's alone."""
    words = Path("/proc/self/statm").read_text().split()
    return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")
