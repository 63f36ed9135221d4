"""A job that is nothing but what the batching policy asks of it."""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class FakeJob:
    """Told apart from others by identity, as a job is."""

    label: object = None
    key: Hashable = "focal"
    elements: int = 1
    bytes: int = 0
    tenant: str = "one"
    priority: int = 1
    deadline: float | None = None
    name: str = "FocalLoss"

    @property
    def pace(self) -> Hashable:
        """As long as others of its key."""
        return self.key


def labels(batch):
    """What a batch is made of, to be compared."""
    return [job.label for job in batch]
