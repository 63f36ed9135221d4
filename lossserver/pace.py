"""How long a batch takes, learned from those that were computed: seconds = a·elements + b.

What it says is used to refuse a call, so where it does not know it says less:

- Of a pace that was seen fewer than KNOWN times it says 0.
- The first batch teaches nothing: it compiles, loads and warms up.
- A batch counts for no more than TWICE what was expected, so that one which
  was disturbed hardly matters; a device that has become twice as slow is
  believed after four or so. One that takes less than half shows that all before were slow
  starts: they are forgotten.
- While all batches had about the same size, nothing can tell a from b. Then it
  says the least that both of them can be: for a larger batch no more than for
  that size, for a smaller one its share.
- Of a batch that is much larger than any so far it says what one of FAR times their mean takes: of
  batches of a few elements each the slope is noise, which would become minutes.
- What refused DOUBT jobs in a row is forgotten: it would refuse for ever, and never learn better.

No clock in here. Threads may share one without a lock: a fit is replaced, never
changed, and if two replace it at once one lesson is lost.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

#: Paces remembered, those used last.
REMEMBERED = 1024

#: Batches of a pace after which something is said of it.
KNOWN = 4

#: How much more a batch counts than all before it: the last ten or so make up nine tenths.
NEWS = 0.2

TWICE = 2.0

#: Refusals in a row after which what is known of a pace is doubted.
DOUBT = 16

#: Seconds that a batch takes at least: of 0 nothing is twice.
RESOLUTION = 1e-6

#: Times the mean of the sizes seen, up to which something follows from them.
FAR = 16.0

#: Sizes differ that stray from their mean by this part of it, as a standard deviation.
DIFFERENT = 0.1


@dataclass(frozen=True, slots=True)
class _Fit:
    """Weighted means of what was seen, and what makes a line of them."""

    seen: int
    elements: float
    seconds: float
    variance: float = 0.0
    covariance: float = 0.0

    def after(self, elements: int, seconds: float) -> "_Fit":
        """The fit that has seen one batch more."""
        dx, dy = elements - self.elements, seconds - self.seconds
        # The first few count alike.
        news = max(NEWS, 1 / (self.seen + 1))
        return _Fit(
            seen=self.seen + 1,
            elements=self.elements + news * dx,
            seconds=self.seconds + news * dy,
            variance=(1 - news) * (self.variance + news * dx * dx),
            covariance=(1 - news) * (self.covariance + news * dx * dy),
        )

    def least(self, elements: int) -> float:
        """The least that a batch of so many elements should take."""
        if self._one_size():
            return self.seconds * min(1.0, elements / max(self.elements, 1.0))
        return self._on_line(min(elements, FAR * self.elements))

    def most(self, elements: int) -> float:
        """The most that it should."""
        if self._one_size():
            return self.seconds * max(1.0, elements / max(self.elements, 1.0))
        return self._on_line(elements)

    def _one_size(self) -> bool:
        return self.variance <= (DIFFERENT * self.elements) ** 2

    def _on_line(self, elements: float) -> float:
        # Through the means, and neither a nor b below 0.
        slope = min(max(self.covariance / self.variance, 0.0), self.seconds / self.elements)
        return max(self.seconds + slope * (elements - self.elements), 0.0)


class _Learned:
    """What is known of one pace."""

    def __init__(self) -> None:
        self.warm = False
        self.fit: _Fit | None = None
        self.refused = 0


class Pace:
    """What was learned of each pace."""

    def __init__(self) -> None:
        # Of all bounded maps the one that threads can share.
        self._learned = lru_cache(maxsize=REMEMBERED)(lambda _: _Learned())

    def learn(self, pace: Hashable, elements: int, seconds: float) -> None:
        """Take note that a batch of so many elements took so long."""
        learned = self._learned(pace)
        learned.refused = 0
        fit = learned.fit
        seconds = max(seconds, RESOLUTION)
        if not learned.warm:
            learned.warm = True
        elif fit is None or seconds < fit.least(elements) / TWICE:
            learned.fit = _Fit(seen=1, elements=elements, seconds=seconds)
        else:
            learned.fit = fit.after(elements, min(seconds, TWICE * fit.most(elements)))

    def seconds(self, pace: Hashable, elements: int) -> float:
        """How long a batch of so many elements takes, more likely too little than too much."""
        fit = self._learned(pace).fit
        return 0.0 if fit is None or fit.seen < KNOWN else fit.least(elements)

    def refuse(self, pace: Hashable) -> None:
        """Take note that a job was refused for what was said of its pace."""
        learned = self._learned(pace)
        learned.refused += 1
        if learned.refused >= DOUBT:
            learned.fit, learned.refused = None, 0
