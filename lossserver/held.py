"""Which tensors stay with the server, whose and how long: bytes by tenant and digest.

A tenant finds only what it has put itself, so nobody learns what others have.
What was not used for longest makes room, first for others of its tenant, then
for anybody's; and what nobody has used for a while goes without need. In use
it may be let go all the same: whoever has found it keeps its bytes.

No thread and no socket here. On the event loop only; needs no lock.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from lossserver.config import Residence
from lossserver.measures import Resident
from lossserver.metrics import Metrics
from losswire.errors import MessageTooLargeError

#: Bytes that a tensor counts for besides its own: what Python has to remember of it.
BESIDES = 2048


class Held:
    """The tensors that stay.

    Parameters:
        residence: how much may, and how long.
        clock: monotonic seconds.
        metrics: where it is counted what becomes of them.

    Attributes:
        bytes: of all of them, and of what Python has to remember.
        tended: somebody will call `expire` when it is due.
    """

    def __init__(self, residence: Residence, clock: Callable[[], float], metrics: Metrics) -> None:
        self.residence = residence
        self._clock = clock
        self._metrics = metrics
        # Both in the order of last use.
        self._all: OrderedDict[tuple[str, bytes], _Tensor] = OrderedDict()
        self._of: dict[str, _Shelf] = {}
        self.bytes = 0
        self.tended = False
        metrics.resident_bytes.watch(lambda: self.bytes)

    def find(self, tenant: str, digest: bytes) -> Tensor | None:
        """A tensor that this tenant has put, used now; None if there is none, or not any longer."""
        self.expire()
        found = self._all.get((tenant, digest))
        self._metrics.resident("miss" if found is None else "hit")
        if found is None:
            return None
        found.used = self._clock()
        self._all.move_to_end((tenant, digest))
        self._of[tenant].move_to_end(digest)
        return found.content

    def check(self, size: int) -> None:
        """Whether a tensor of so many bytes may stay.

        Raises:
            MessageTooLargeError: there could never be room for it.
        """
        if size + BESIDES > self.residence.largest:
            raise MessageTooLargeError(
                f"a tensor that stays must have at most {self.residence.largest - BESIDES} bytes; "
                "the server's options --max-resident-bytes and --max-tenant-resident-bytes raise "
                "that",
                given=f"{size} bytes",
            )

    def put(self, tenant: str, digest: bytes, content: Tensor) -> None:
        """Keep a tensor that `check` has let pass; others make room for it.

        Parameters:
            content: bytes, uint8 [size], which nobody writes any more.
        """
        self.expire()
        if (tenant, digest) in self._all:
            return
        self._metrics.resident("put")
        size = len(content) + BESIDES
        own = self._of.get(tenant)
        while own and own.bytes + size > self.residence.max_tenant_resident_bytes:
            self._drop(tenant, next(iter(own)), "evicted")
        while self.bytes + size > self.residence.max_resident_bytes:
            self._drop(*next(iter(self._all)), "evicted")
        self._all[tenant, digest] = _Tensor(content, self._clock())
        shelf = self._of.setdefault(tenant, _Shelf())
        shelf[digest] = None
        shelf.bytes += size
        self.bytes += size

    def expire(self) -> float | None:
        """Drop what nobody has used for too long; seconds until the next may be, None if it is empty."""
        now = self._clock()
        while self._all:
            (tenant, digest), oldest = next(iter(self._all.items()))
            left = oldest.used + self.residence.resident_ttl - now
            if left > 0:
                return left
            self._drop(tenant, digest, "expired")
        return None

    def _drop(self, tenant: str, digest: bytes, why: Resident) -> None:
        size = len(self._all.pop((tenant, digest)).content) + BESIDES
        shelf = self._of[tenant]
        del shelf[digest]
        shelf.bytes -= size
        if not shelf:
            del self._of[tenant]
        self.bytes -= size
        self._metrics.resident(why)


class _Tensor:
    """One tensor, and when it was last used, in monotonic seconds."""

    __slots__ = ("content", "used")

    def __init__(self, content: Tensor, used: float) -> None:
        self.content = content
        self.used = used


class _Shelf(OrderedDict[bytes, None]):
    """One tenant's digests, in the order of last use; and the bytes of its tensors."""

    bytes = 0
