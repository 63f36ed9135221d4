"""Memory that a client and a server of one machine both have mapped.

The server makes it, and seals it: nobody can change its size any more. So a
client that has it cannot cut it off under the server, who would die of that
(SIGBUS), nor can a server do that to a client. A file of /dev/shm cannot be
sealed; so a region has no name, and does not count there, where a container
often has 64 MiB. It is gone as soon as nobody has it mapped, however they ended.

What has a name in /dev/shm is a Unix socket that hands the region's file
descriptor to the first who asks. The name is the server's, and random; only its
own user may ask; and it stands for seconds. Where that socket can be reached
memory can be shared, across containers too, and there is no other test of it.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import secrets
import socket
import stat
import sys
import time
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108  (the contract's)
PREFIX = "lossserver-"

#: Where every tensor in a region begins: a cache line, and more than any instruction asks for.
ALIGNMENT = 64

#: Seconds for which a region may be asked for.
OFFERED = 10.0

#: Whether this system has what it takes: Linux.
AVAILABLE = sys.platform == "linux" and FOLDER.is_dir()

_NAME = re.compile(re.escape(PREFIX) + r"[0-9a-f]{32}\Z")

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


class Offer:
    """A region's descriptor, for the first who asks. On the side that made it.

    Parameters:
        descriptor: the region's, which is closed in the end.

    Attributes:
        name: what the other side is to ask for.
        listening: the socket; when it can be read from, somebody asks.

    Raises:
        OSError: there can be no such socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.name = PREFIX + secrets.token_hex(16)
        try:
            self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            os.close(descriptor)
            raise
        try:
            self.listening.setblocking(False)
            # Nobody has the name before it listens; and who has the name must be of this user.
            self.listening.bind(str(FOLDER / self.name))
            (FOLDER / self.name).chmod(0o600)
            self.listening.listen(1)
        except BaseException:
            self.end()
            raise

    def hand_out(self) -> None:
        """Give the descriptor to who asks."""
        with contextlib.suppress(OSError), self.listening.accept()[0] as asking:
            socket.send_fds(asking, [b"\0"], [self._descriptor])

    def end(self) -> None:
        """Offer it no longer. May be called again."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                (FOLDER / self.name).unlink()
            self.listening.close()
            os.close(self._descriptor)
            self._descriptor = -1


def taken(name: str, size: int, timeout: float = OFFERED) -> mmap.mmap:
    """The region of that name, mapped. On the side that was told the name.

    Raises:
        OSError: it cannot be had: there is none here, it is another's, or it is not as it must be.
    """
    if not AVAILABLE or not _NAME.match(name):
        raise OSError("a region's name must be a server's")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(timeout)
        asking.connect(str(FOLDER / name))
        _, descriptors, _, _ = socket.recv_fds(asking, 1, 1)
    if not descriptors:
        raise OSError("a region's file descriptor must come from its socket")
    try:
        return mapped(descriptors[0], size)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def sweep() -> None:
    """Remove what killed servers left in /dev/shm: names that no living one offers any longer."""
    if not AVAILABLE:
        return
    for path in FOLDER.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            old = time.time() - found.st_mtime > 6 * OFFERED
            if old and stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid():
                path.unlink()
