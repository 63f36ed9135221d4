"""Offers that somebody takes in another thread."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from losswire.offer import Offer


@contextmanager
def offered(descriptor: int) -> Iterator[str]:
    """The name of an offer that is handed out as soon as somebody asks; left once somebody has."""
    offer = Offer(os.dup(descriptor))

    def hand_out() -> None:
        offer.listening.setblocking(True)
        offer.hand_out()
        offer.end()

    handing = threading.Thread(target=hand_out, daemon=True)
    handing.start()
    yield offer.name
    handing.join()
