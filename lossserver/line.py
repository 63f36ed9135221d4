"""What the batching policy knows of a job, and how jobs stand in line."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What the policy must know of a job. Jobs are told apart by identity."""

    @property
    def key(self) -> Hashable:
        """Jobs of equal keys may go together."""

    @property
    def pace(self) -> Hashable:
        """Jobs of equal paces take equally long an element."""

    @property
    def name(self) -> str:
        """The loss's name."""

    @property
    def elements(self) -> int:
        """Elements of all its inputs."""

    @property
    def bytes(self) -> int:
        """Bytes that computing it is expected to take."""

    @property
    def tenant(self) -> Hashable:
        """Who asks."""

    @property
    def priority(self) -> int:
        """0 goes before 1, and that before 2."""

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds after which nobody waits for it; None is never."""


J = TypeVar("J", bound=Sized)


@dataclass(slots=True, eq=False)
class Ticket(Generic[J]):
    """A job that waits.

    Attributes:
        job: what waits.
        wait: seconds that it waits for company; 0 once it is due.
        due: monotonic seconds at which it may go.
    """

    job: J
    wait: float
    due: float


#: Tickets, in the order in which they came. Any can leave at once, and the first is found at once.
Line = OrderedDict[Ticket[J], None]
