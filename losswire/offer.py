"""A file descriptor that goes to another process of this machine, over a socket with a name.

The name is in /dev/shm, random, and the giver's; only its own user may ask; and it
stands for seconds. Who can ask is on the same machine, in whatever container, and
there is no other test of that.
"""

import contextlib
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

#: Seconds for which something is offered.
OFFERED = 10.0

#: Whether this system has what it takes: Linux.
AVAILABLE = sys.platform == "linux" and FOLDER.is_dir()

_NAME = re.compile(re.escape(PREFIX) + r"[0-9a-f]{32}\Z")


class Offer:
    """A descriptor, for the first who asks. On the side that has it.

    Parameters:
        descriptor: which; it is closed in the end.

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


def taken(name: str, timeout: float = OFFERED) -> int:
    """The descriptor that is offered under that name. On the side that was told the name.

    Raises:
        OSError: it cannot be had: there is none here, or it is another's.
    """
    if not AVAILABLE or not _NAME.match(name):
        raise OSError("what is offered must have a server's name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(timeout)
        asking.connect(str(FOLDER / name))
        _, descriptors, _, _ = socket.recv_fds(asking, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not descriptors:
        raise OSError("a file descriptor must come from the socket that offers it")
    return descriptors[0]


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
