"""A client of ours, by one plane.

python -m benchmarks.planes.ours FOLDER CASE TARGET [--plane shared] [--way call] [--keep]
"""

import argparse
from collections import deque
from concurrent.futures import Future

import lossclient
from benchmarks.planes.case import Written, read
from benchmarks.planes.orders import Answer, obey

#: Calls in flight, and calls of one run of a way that has many.
IN_FLIGHT, CALLS = 64, 2560


class Ways:
    """The ways to make calls, by name.

    Attributes:
        fused: whether a kernel answered the last one.
    """

    def __init__(self, client: lossclient.Client, written: Written) -> None:
        self._client = client
        self._call = written.case.config, written.pred, written.target
        self.fused = False

    def call(self) -> Answer:
        """One, waited for."""
        return self._taken(self._client.compute(*self._call))

    def submit(self) -> Answer:
        """Many, each sent as soon as there is room for it."""
        waiting: deque[Future[lossclient.Result]] = deque()
        for _ in range(CALLS):
            if len(waiting) == IN_FLIGHT:
                waiting.popleft().result()
            waiting.append(self._client.submit(*self._call))
        return [self._taken(one.result()) for one in waiting][-1]

    def compute_many(self) -> Answer:
        """As many, in lists one after the other, each in one message."""
        for _ in range(CALLS // IN_FLIGHT):
            found = self._client.compute_many([self._call] * IN_FLIGHT)
        return self._taken(found[-1])

    def _taken(self, result: lossclient.Result) -> Answer:
        self.fused = result.timings.fused
        return result.loss, result.grad


def main() -> None:
    """Call when ordered to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("case")
    parser.add_argument("target")
    parser.add_argument("--plane", default="auto")
    parser.add_argument("--way", default="call", choices=["call", "submit", "compute_many"])
    parser.add_argument("--keep", action="store_true", help="keep freed memory in this process")
    args = parser.parse_args()
    if args.keep:
        lossclient.keep_memory()
    written = read(args.folder, args.case)
    calls = {"call": 1, "submit": CALLS, "compute_many": CALLS}[args.way]
    with lossclient.connect(args.target, plane=args.plane) as client:
        ways = Ways(client, written)
        obey(getattr(ways, args.way), written, calls=calls, fused=lambda: ways.fused)


if __name__ == "__main__":
    main()
