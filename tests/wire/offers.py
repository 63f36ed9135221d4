"""Offers that somebody takes in another thread."""

import os
import threading

from losswire.offer import Offer


def offered(descriptor: int) -> Offer:
    """An offer that is handed out as soon as somebody asks."""
    offer = Offer(os.dup(descriptor))

    def hand_out():
        offer.listening.setblocking(True)
        offer.hand_out()
        offer.end()

    threading.Thread(target=hand_out, daemon=True).start()
    return offer
