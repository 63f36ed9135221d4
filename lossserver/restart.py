"""A server that starts itself again, in place: what it leaves to the one that follows.

What a lost device leaves behind dies with its process and with nothing less. So
the process is replaced by itself: same command line, same process id, same port.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn, Self

#: Seconds that a server must have served before it starts itself again a second time. Starting
#: takes a few; a device lost so soon will be lost again.
SOON = 60.0

#: Where one leaves it for the other. No option: it is read by no one else.
VARIABLE = "_LOSSSERVER_RESTART"


class LostAgainError(RuntimeError):
    """A device was lost again, too soon after the server started itself again."""


@dataclass(frozen=True, kw_only=True)
class Restart:
    """What a server must know of those before it in the same process.

    Attributes:
        port: where they listened; 0 if there were none.
        lost: how often each device was lost.
    """

    port: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def told(cls, environ: Mapping[str, str]) -> Self:
        """What was left; nothing at a first start."""
        return cls(**json.loads(environ.get(VARIABLE, "{}")))

    def names(self) -> list[str]:
        """The devices that were lost, each as often as it was."""
        return [device for device, times in self.lost.items() for _ in range(times)]

    def after(self, device: str, port: int, served: float) -> Self:
        """What to leave, after `served` seconds, when a device was lost.

        Raises:
            LostAgainError: it would be lost again and again.
        """
        if self.lost and served < SOON:
            raise LostAgainError(
                f"device {device} was lost after {served:.1f} s, and one before it; the server starts "
                f"itself again only if it could serve for {SOON:g} s. The log has the device's errors"
            )
        lost = {**self.lost, device: self.lost.get(device, 0) + 1}
        return type(self)(port=port, lost=lost)

    def go(self) -> NoReturn:
        """Replace this process by a fresh one of the same command line.

        Raises:
            OSError: the system does not let it.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        # What is left of a dead device is held by open files; none is for the next to inherit.
        for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
            if number > 2:
                with contextlib.suppress(OSError):  # that of the list itself
                    os.set_inheritable(number, False)
        os.environ[VARIABLE] = json.dumps(asdict(self))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  (our own command)
