"""A server whose device is lost in the middle of its work, as far as anybody can tell.

`losing.py once serve ...` loses it in the first process only, `losing.py always`
in each that follows too. `losing.py truly` loses a CUDA device once, indeed.
`losing.py hangs` has one that never comes to an end, from the first batch.
"""

import itertools
import os
import sys
import threading

import torch

from lossserver import isolate
from lossserver.commands import run
from lossserver.restart import Restart

#: The batch in which the device is lost.
FATAL = 12


def losing() -> None:
    """Make the device fail as a CUDA device does after an assertion on it."""
    numbers = itertools.count(1)
    compute = isolate.compute

    def instead(*args, **named):
        if sys.argv[1] == "hangs":
            print("it hangs", flush=True)  # noqa: T201  (for the test)
            threading.Event().wait()
        if next(numbers) == FATAL:
            if sys.argv[1] == "truly":
                torch.zeros(2, device="cuda")[torch.full((1,), 9, device="cuda")].cpu()
            raise RuntimeError("CUDA error: device-side assert triggered\nAnd so on.")
        return compute(*args, **named)

    isolate.compute = instead


if __name__ == "__main__":
    if sys.argv[1] == "always" or not Restart.told(os.environ).lost:
        losing()
    sys.exit(run(sys.argv[2:]))
