"""Handing a file descriptor to a client, as soon as it asks. On the event loop."""

import asyncio
from collections.abc import Callable

from losswire.offer import OFFERED, Offer


def offered(descriptor: int) -> tuple[str, Callable[[], None]]:
    """Have whoever asks first get a descriptor, for some seconds.

    Parameters:
        descriptor: which; it is closed in the end.

    Returns:
        The name under which to ask, and what withdraws the offer; that may be called again.

    Raises:
        OSError: it cannot be offered.
    """
    loop = asyncio.get_running_loop()
    offer = Offer(descriptor)

    def withdraw() -> None:
        if offer.listening.fileno() >= 0:
            loop.remove_reader(offer.listening)
            overdue.cancel()
            offer.end()

    def asked() -> None:
        offer.hand_out()
        withdraw()

    overdue = loop.call_later(OFFERED, withdraw)
    loop.add_reader(offer.listening, asked)
    return offer.name, withdraw
