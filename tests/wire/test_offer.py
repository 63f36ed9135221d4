"""losswire.offer: a file descriptor that goes to another process, over a socket with a name."""

import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from losswire import offer
from losswire.offer import FOLDER, PREFIX, Offer
from tests.wire.offers import offered

# Names in /dev/shm are counted, and other tests' would be among them.
pytestmark = [
    pytest.mark.skipif(not offer.AVAILABLE, reason="needs Linux"),
    pytest.mark.alone,
]


@pytest.fixture
def descriptor():
    made = os.memfd_create("offered")
    yield made
    os.close(made)


def files() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def names() -> set[str]:
    return {path.name for path in FOLDER.glob(PREFIX + "*")}


def test_a_name_is_random_and_only_its_user_may_ask(descriptor):
    """No two are alike, and the socket's mode is 0600."""
    offers = [Offer(os.dup(descriptor)) for _ in range(2)]
    modes = [stat.S_IMODE((FOLDER / one.name).stat().st_mode) for one in offers]
    for one in offers:
        one.end()

    assert offers[0].name != offers[1].name
    assert modes == [0o600, 0o600]


def test_a_name_is_good_for_once(descriptor):
    """Who comes second finds nothing, or is let go as the socket closes; and no name is left."""
    with offered(descriptor) as name:
        os.close(offer.taken(name))
        with pytest.raises(OSError, match=r"refused|No such file|reset by peer|must come from"):
            offer.taken(name)

    assert name not in names()


def test_an_offer_that_ends_leaves_nothing(descriptor):
    """Neither a name nor a file descriptor, also if it ends twice."""
    before = files()
    one = Offer(os.dup(descriptor))
    one.end()
    one.end()

    assert one.name not in names()
    assert files() == before


def test_where_there_can_be_no_socket_nothing_is_left(descriptor, monkeypatch):
    """It is an OSError, and the descriptor is closed."""
    monkeypatch.setattr(offer, "FOLDER", Path("/nowhere"))
    own = os.dup(descriptor)

    with pytest.raises(FileNotFoundError):
        Offer(own)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(own)


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../../etc/passwd", PREFIX, "other-" + 32 * "0", PREFIX + 31 * "0" + "/"]
    + [PREFIX + end for end in (32 * "0" + "\n", 33 * "0", 32 * "A")],
)
def test_only_a_servers_name_is_asked_for(name):
    """A path, or the name of something else, is refused before anything is opened."""
    with pytest.raises(OSError, match="must have a server's"):
        offer.taken(name)


def test_a_name_that_nobody_offers_is_an_error():
    """So it is where client and server share no memory."""
    with pytest.raises(FileNotFoundError):
        offer.taken(PREFIX + 32 * "0")


def close_who_comes(listening: socket.socket) -> None:
    listening.accept()[0].close()


def test_who_hands_out_no_file_is_not_believed():
    """A socket that says something else has no region."""
    with socket.socket(socket.AF_UNIX) as listening:
        path = FOLDER / (PREFIX + 32 * "1")
        listening.bind(str(path))
        listening.listen(1)
        try:
            threading.Thread(target=close_who_comes, args=(listening,)).start()
            with pytest.raises(OSError, match="descriptor must come"):
                offer.taken(path.name)
        finally:
            path.unlink()


def test_who_asks_and_is_gone_does_no_harm(descriptor):
    """The maker goes on."""
    one = Offer(os.dup(descriptor))
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(FOLDER / one.name))
    one.hand_out()
    one.hand_out()  # and if nobody asks at all
    one.end()

    assert one.name not in names()


def test_names_of_killed_servers_are_swept(descriptor):
    """Only sockets, of this user, with our prefix, and so old that nobody can still offer them."""
    old, new = Offer(os.dup(descriptor)), Offer(os.dup(descriptor))
    kept = FOLDER / (PREFIX + "not-a-socket")
    kept.touch()
    long_ago = time.time() - 3600
    for path in (FOLDER / old.name, kept):
        os.utime(path, (long_ago, long_ago))
    offer.sweep()
    left = names()
    kept.unlink()
    for one in (old, new):
        one.end()

    assert old.name not in left
    assert {new.name, kept.name} <= left


def test_where_there_is_no_such_memory_nothing_is_swept_or_taken(monkeypatch):
    """On other systems."""
    monkeypatch.setattr(offer, "AVAILABLE", False)
    offer.sweep()

    with pytest.raises(OSError, match="must have a server's"):
        offer.taken(PREFIX + 32 * "0")
