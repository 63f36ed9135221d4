"""The two ways of a stream's messages: gRPC, and a bypass if its client has one."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from lossserver.bypass import Bypass, Take
from lossserver.front import Context
from lossserver.sharing import SharedMemory
from losswire.bypass import LONGEST
from losswire.errors import LossError
from losswire.tensor import Buffer


class Ways:
    """The ways of one stream. On the event loop only.

    Parameters:
        context: gRPC's.
        shared: where nothing is shared there is no bypass.
    """

    def __init__(self, context: Context, shared: SharedMemory) -> None:
        self._context = context
        self._shared = shared
        self._bypass: Bypass | None = None

    def bypass(self, take: Take, broken: Callable[[LossError], None]) -> str:
        """Make a bypass, and the name under which it can be had; empty if there is one, or can be none.

        Parameters:
            take, broken: as of Bypass.
        """
        if self._bypass is None and self._shared.offered:
            with suppress(OSError):
                self._bypass = Bypass(take, broken)
                return self._bypass.name
        return ""

    async def write(self, written: Sequence[Buffer]) -> None:
        """Send a message that is joined of these, the way that the client uses.

        Raises:
            Exception: nobody is there any more.
        """
        bypass = self._bypass
        if bypass is not None and bypass.used and sum(map(len, written)) <= LONGEST:
            await bypass.write(written)
        else:
            await self._context.write(b"".join(written))

    def end(self) -> None:
        """Let go of the bypass."""
        if self._bypass is not None:
            self._bypass.end()
            self._bypass = None
