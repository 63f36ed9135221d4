"""Memory that a client and a server of one machine both have mapped.

The server makes it, and seals it: nobody can change its size any more. So a
client that has it cannot cut it off under the server, who would die of that
(SIGBUS), nor can a server do that to a client. A file of /dev/shm cannot be
sealed; so a region has no name, and does not count there, where a container
often has 64 MiB. It is gone as soon as nobody has it mapped, however they ended.

What has a name is the socket that hands over the region's descriptor (offer.py).
"""

import errno
import fcntl
import mmap
import os
import sys
from pathlib import Path

from losswire import offer
from losswire.offer import AVAILABLE, OFFERED, PREFIX

#: Where every tensor in a region begins: a cache line, and more than any instruction asks for.
ALIGNMENT = 64

if AVAILABLE:
    _SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def aligned(size: int) -> int:
    """The next place from there on where a tensor may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def make(size: int) -> int:
    """The file descriptor of a new region of so many bytes, all of them there and zero.

    Raises:
        OSError: there is not so much memory.
    """
    if size > _available():
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    descriptor = os.memfd_create(PREFIX + "region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # Without its memory it would be there, and whoever wrote to it would die of it.
        os.posix_fallocate(descriptor, 0, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _available() -> int:
    """Bytes that there are; who takes more has some process killed for it, perhaps another."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return sys.maxsize


def mapped(descriptor: int, size: int) -> mmap.mmap:
    """So many bytes of a region, to read and write. The descriptor is needed no longer.

    Raises:
        OSError: it is shorter, can be made so, or is no region.
    """
    if os.fstat(descriptor).st_size < size:
        raise OSError(f"a region must have {size} bytes")
    if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise OSError("a region must be sealed against shrinking")
    # All pages at once: one by one, as they are written, they cost more than the writing.
    return mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)


def taken(name: str, size: int, timeout: float = OFFERED) -> mmap.mmap:
    """The region that is offered under that name, mapped.

    Raises:
        OSError: it cannot be had, or is not as it must be.
    """
    descriptor = offer.taken(name, timeout)
    try:
        return mapped(descriptor, size)
    finally:
        os.close(descriptor)
