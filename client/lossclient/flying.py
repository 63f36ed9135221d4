"""The calls of a stream that nobody has answered yet."""

import threading
from collections.abc import Callable, Iterable

from lossclient.waiting import Gathering
from losswire.errors import LossError
from losswire.runs import Run
from losswire.streaming import Answered, each

Settle = Callable[[Answered | LossError], None]


class Flying:
    """What is to be done with each answer, by the number of its call. Any thread may use it.

    Attributes:
        over: how the stream has ended; None until then.
    """

    def __init__(self) -> None:
        self._calls: dict[int, Settle] = {}
        self._next = 1
        self._numbering = threading.Lock()
        self.over: LossError | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def expect(self, settle: Settle) -> int:
        """A number for a call; `settle` is called once with what became of it, unless it is dropped."""
        return self.expect_many(settle, 1).start

    def expect_many(self, settle: Settle, count: int) -> range:
        """Numbers for so many calls, one after the other; `settle` is called for each, or a Gathering."""
        with self._numbering:
            numbers = range(self._next, self._next + count)
            self._next += count
        self._calls.update(dict.fromkeys(numbers, settle))
        return numbers

    def check(self, numbers: Iterable[int]) -> None:
        """Raise why the stream is over, if nobody else will settle these calls.

        Called when they are in flight: if it ends after that, they will be.
        """
        if self.over is not None and self.drop(numbers):
            raise self.over

    def drop(self, numbers: Iterable[int]) -> list[int]:
        """Expect these no longer; those that were expected."""
        return [number for number in numbers if self._calls.pop(number, None)]

    def settle(self, answer: Answered | Run) -> None:
        """Hand out an answer, or several, as far as they are expected."""
        if not isinstance(answer, Run):
            if (settle := self._calls.pop(answer.id, None)) is not None:
                settle(answer)
            return
        found = [self._calls.pop(number, None) for number in answer.ids]
        if isinstance(found[0], Gathering) and found.count(found[0]) == len(found):
            found[0](answer)
            return
        for settle, one in zip(found, each([answer]), strict=True):
            if settle is not None:
                settle(one)

    def end(self, over: LossError) -> None:
        """Tell whoever waits, now or later, that there will be no more answers."""
        self.over = over
        while self._calls:
            for number in list(self._calls):
                if (settle := self._calls.pop(number, None)) is not None:  # or it was dropped
                    settle(over)
