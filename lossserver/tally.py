"""Counting in plain Python, put into Prometheus' words when somebody asks.

Counting costs about 0.3 µs. The library's own histogram takes 1.2 µs, and a
call makes eight observations. Any thread may count.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table of what is counted.

    Attributes:
        name: what Prometheus calls it.
        kind: a counter only grows, a gauge is asked when somebody looks, a histogram counts
            what was observed up to each of its bounds.
        text: what is counted, and its unit.
        labels: names of what tells its series apart.
        words: all values of a lone label; these series are there from the start, at 0. Empty
            where they are not known beforehand.
        bounds: of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    def series(self) -> list[tuple[str, ...]]:
        """Labels of the series that are there from the start."""
        if self.words:
            return [(word,) for word in self.words]
        return [] if self.labels else [()]


class Counter:
    """Numbers that grow, by label."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._lock = threading.Lock()
        self._totals = dict.fromkeys(row.series(), 0.0)

    def add(self, *labels: str, by: float = 1) -> None:
        """Count once more, or `by`."""
        with self._lock:
            self._totals[labels] = self._totals.get(labels, 0.0) + by

    def collect(self) -> Iterator[Metric]:
        """What Prometheus is told."""
        family = CounterMetricFamily(self._row.name, self._row.text, labels=self._row.labels)
        with self._lock:
            totals = list(self._totals.items())
        for labels, total in totals:
            family.add_metric(labels, total)
        yield family


class Gauge:
    """A number that is found out when somebody asks: the sum of what its readers say."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._readers: list[Callable[[], float]] = []

    def watch(self, read: Callable[[], float]) -> None:
        """Ask `read`, too. It is called in a thread of its own."""
        self._readers.append(read)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus is told."""
        value = sum(read() for read in self._readers)
        yield GaugeMetricFamily(self._row.name, self._row.text, value=value)


class Histogram:
    """How many observations were up to each bound, by label."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._lock = threading.Lock()
        # One more for what exceeds all bounds; and the sum.
        self._counts = {labels: [0] * (len(row.bounds) + 1) for labels in row.series()}
        self._sums = dict.fromkeys(row.series(), 0.0)

    def observe(self, value: float, *labels: str, by: int = 1) -> None:
        """Count a value, or `by` equal ones, of a series that is there from the start."""
        with self._lock:
            self._counts[labels][bisect_left(self._row.bounds, value)] += by
            self._sums[labels] += value * by

    def collect(self) -> Iterator[Metric]:
        """What Prometheus is told."""
        family = HistogramMetricFamily(self._row.name, self._row.text, labels=self._row.labels)
        bounds = [*(str(float(bound)) for bound in self._row.bounds), "+Inf"]
        for labels in self._counts:
            with self._lock:
                counts, total = list(accumulate(self._counts[labels])), self._sums[labels]
            family.add_metric(labels, list(zip(bounds, counts, strict=True)), sum_value=total)
        yield family
