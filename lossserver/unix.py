"""Unix sockets to listen on: "unix:/path", as gRPC writes it.

Whoever may write to the file may connect; its mode is as the umask says, so the
usual one lets in nobody but its owner. gRPC makes the file, removes it at the
end, and would take it from a server that is still there.
"""

import socket
from pathlib import Path

PREFIX = "unix:"


def is_unix(host: str) -> bool:
    """Whether an address to listen on is a Unix socket."""
    return host.startswith(PREFIX)


def check_free(host: str) -> None:
    """Whether a Unix socket can be listened on. What a killed server left there does not count.

    Raises:
        OSError: it cannot.
    """
    path = Path(host.removeprefix(PREFIX).removeprefix("//"))
    if not path.parent.is_dir():
        raise OSError(f"cannot listen on {host}: there is no directory {path.parent}")
    if not path.exists():
        return
    if not path.is_socket():
        raise OSError(f"cannot listen on {host}: there is something else")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(str(path))
        except OSError:
            return
    raise OSError(f"cannot listen on {host}: another server is there")
