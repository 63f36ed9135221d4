"""The two ways of a stream's messages: gRPC, and a bypass if its client has one."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from lossserver.bypass import Bypass, Take, pair
from lossserver.front import Context, Front
from losswire.bypass import LONGEST
from losswire.errors import LossError
from losswire.tensor import Buffer


class Ways:
    """The ways of one stream. On the event loop only.

    Parameters:
        context: gRPC's.
        front: where nothing is shared, and nobody connects directly, there is no bypass.
        take, broken: as of Bypass.
    """

    def __init__(
        self, context: Context, front: Front, take: Take, broken: Callable[[LossError], None]
    ) -> None:
        self._context = context
        self._front = front
        self._take = take
        self._broken = broken
        self._bypass: Bypass | None = None
        self._withdraw: Callable[[], None] | None = None

    def bypass(self) -> str:
        """Make a bypass, and the name under which it can be had; empty if there is one, or can be none."""
        if self._bypass is None and self._front.shared.offered:
            with suppress(OSError):
                line, name, self._withdraw = pair()
                self._bypass = Bypass(line, self._take, self._broken, self._front.awake)
                return name
        return ""

    def join(self, name: bytes) -> bool:
        """Make a direct connection the bypass; whether it is, there being none that is used."""
        if self._bypass is not None and self._bypass.used:
            return False
        line = self._front.direct.given_up(name)
        if line is None:
            return False
        self.end()
        self._bypass = Bypass(line, self._take, self._broken, self._front.awake)
        return True

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
        if self._withdraw is not None:
            self._withdraw()
            self._withdraw = None
        if self._bypass is not None:
            self._bypass.end()
            self._bypass = None
