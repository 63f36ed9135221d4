"""How often a call is repeated, and what is done where no server answers."""

import random
from dataclasses import dataclass
from typing import Literal

#: What a call does when no server answers: wait for one, compute here, or fail.
OnUnavailable = Literal["wait", "local", "raise"]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How a call is repeated when no server answers, all shut down, or are too busy.

    Of several targets the next one is asked at once. Only when all have failed does
    the call wait.

    Attributes:
        attempts: times a call is sent to each target at most; None is until its timeout.
        first_wait: seconds before the second attempt; each further wait is twice the last.
        longest_wait: seconds that no wait exceeds.
    """

    attempts: int | None = None
    first_wait: float = 0.05
    longest_wait: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, or None; given {self.attempts}")

    def waits(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt`, the first being 0.

        Between half of it and all, at random, so that a hundred trainers do not
        come back at once.
        """
        wait = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt, 30))
        return wait * random.uniform(0.5, 1)  # noqa: S311
