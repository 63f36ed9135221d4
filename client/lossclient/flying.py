"""The calls of a stream that nobody has answered yet."""

import itertools
from collections.abc import Callable, Iterable

from losswire.errors import LossError
from losswire.streaming import Answered

Settle = Callable[[Answered | LossError], None]


class Flying:
    """What is to be done with each answer, by the number of its call. Any thread may use it.

    Attributes:
        over: how the stream has ended; None until then.
    """

    def __init__(self) -> None:
        self._calls: dict[int, Settle] = {}
        self._numbers = itertools.count(1)
        self.over: LossError | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def expect(self, settle: Settle) -> int:
        """A number for a call; `settle` is called once with what became of it, unless it is dropped."""
        number = next(self._numbers)
        self._calls[number] = settle
        return number

    def check(self, numbers: Iterable[int]) -> None:
        """Raise why the stream is over, if nobody else will settle these calls.

        Called when they are in flight: if it ends after that, they will be.
        """
        if self.over is not None and self.drop(numbers):
            raise self.over

    def drop(self, numbers: Iterable[int]) -> list[int]:
        """Expect these no longer; those that were expected."""
        return [number for number in numbers if self._calls.pop(number, None)]

    def settle(self, answer: Answered) -> None:
        """Hand out an answer, if it is expected."""
        if (settle := self._calls.pop(answer.id, None)) is not None:
            settle(answer)

    def end(self, over: LossError) -> None:
        """Tell whoever waits, now or later, that there will be no more answers."""
        self.over = over
        while self._calls:
            for number in list(self._calls):
                if (settle := self._calls.pop(number, None)) is not None:  # or it was dropped
                    settle(over)
