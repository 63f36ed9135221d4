"""What is kept of a call when it has ended: one log line, and the counts."""

import logging
from dataclasses import dataclass

from lossserver.job import Job, Result
from lossserver.metrics import Metrics

log = logging.getLogger("lossserver")


@dataclass(kw_only=True)
class Account:
    """One call, as far as it has come; or calls that are worked on as one.

    Attributes:
        metrics: where it is counted.
        calls: how many they are.
        job: once it was decoded.
        result: once it was computed.
        decode, encode, total: seconds, once it was answered.
    """

    metrics: Metrics
    calls: int = 1
    job: Job | None = None
    result: Result | None = None
    decode: float = 0.0
    encode: float = 0.0
    total: float = 0.0

    def close(self, status: str, reason: str = "") -> None:
        """The call has ended. Its tensors are let go: gRPC may keep the frames that lead here."""
        self.metrics.called("" if self.job is None else self.job.name, status, self.calls)
        if status == "OK" and self.result is not None:
            self.metrics.took(
                decode=self.decode,
                queue=self.result.queue,
                compute=self.result.compute,
                encode=self.encode,
                total=self.total,
                calls=self.calls,
            )
        log.info("%s", self._line(status, reason))
        self.job = self.result = None

    def _line(self, status: str, reason: str) -> str:
        parts = ["compute"]
        if self.job is not None:
            parts.append(f"loss={self.job.name} elements={self.job.elements}")
        if self.calls > 1:
            parts.append(f"calls={self.calls}")
        if self.result is not None:
            done = self.result
            parts.append(f"batch={done.batch} wait={done.queue:.4f} compute={done.compute:.4f}")
        parts.append(f"status={status}")
        if reason:
            parts.append(f"reason={reason!r}")
        return " ".join(parts)
