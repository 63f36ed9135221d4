"""losswire.region: memory that two processes have, handed over by a socket."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from losswire import region
from losswire.region import FOLDER, PREFIX, Offer

# Names in /dev/shm are counted, and other tests' would be among them.
pytestmark = [
    pytest.mark.skipif(not region.AVAILABLE, reason="needs Linux"),
    pytest.mark.alone,
]

SIZE = 1 << 16

TAKE = """
import sys
from losswire import region
memory = region.taken(sys.argv[1], 1 << 16)
memory[:5] = b"hello"
"""


@pytest.fixture
def descriptor():
    made = region.make(SIZE)
    yield made
    os.close(made)


def offered(descriptor: int) -> Offer:
    """An offer that is handed out as soon as somebody asks."""
    offer = Offer(os.dup(descriptor))

    def hand_out():
        offer.listening.setblocking(True)
        offer.hand_out()
        offer.end()

    threading.Thread(target=hand_out, daemon=True).start()
    return offer


def files() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def names() -> set[str]:
    return {path.name for path in FOLDER.glob(PREFIX + "*")}


def test_another_process_has_the_same_memory(descriptor):
    """What one that was told the name writes, the maker reads."""
    ours = region.mapped(descriptor, SIZE)
    taking = [sys.executable, "-c", TAKE, offered(descriptor).name]
    subprocess.run(taking, check=True)  # noqa: S603  (our own program)

    assert ours[:6] == b"hello\0"


def test_nobody_can_cut_it_off(descriptor):
    """Neither side can make it shorter under the other, who would die of that."""
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 10)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0)

    assert os.fstat(descriptor).st_size == SIZE


def test_a_name_is_random_and_only_its_user_may_ask(descriptor):
    """No two are alike, and the socket's mode is 0600."""
    offers = [Offer(os.dup(descriptor)) for _ in range(2)]
    modes = [stat.S_IMODE((FOLDER / offer.name).stat().st_mode) for offer in offers]
    for offer in offers:
        offer.end()

    assert offers[0].name != offers[1].name
    assert modes == [0o600, 0o600]


def test_a_name_is_good_for_once(descriptor):
    """Who comes second finds nothing, or is let go as the socket closes; and no name is left."""
    name = offered(descriptor).name
    region.taken(name, SIZE)

    with pytest.raises(OSError, match=r"refused|No such file|reset by peer|must come from"):
        region.taken(name, SIZE)
    assert name not in names()


def test_an_offer_that_ends_leaves_nothing(descriptor):
    """Neither a name nor a file descriptor, also if it ends twice."""
    before = files()
    offer = Offer(os.dup(descriptor))
    offer.end()
    offer.end()

    assert offer.name not in names()
    assert files() == before


def test_where_there_can_be_no_socket_nothing_is_left(descriptor, monkeypatch):
    """It is an OSError, and the descriptor is closed."""
    monkeypatch.setattr(region, "FOLDER", Path("/nowhere"))
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
    with pytest.raises(OSError, match="must be a server's"):
        region.taken(name, SIZE)


def test_a_name_that_nobody_offers_is_an_error():
    """So it is where client and server share no memory."""
    with pytest.raises(FileNotFoundError):
        region.taken(PREFIX + 32 * "0", SIZE)


def test_who_hands_out_too_little_is_not_believed(descriptor):
    """A region that is shorter than was said is not mapped."""
    with pytest.raises(OSError, match="must have"):
        region.taken(offered(descriptor).name, SIZE + 1)


def test_who_could_cut_it_off_is_not_believed():
    """A file that is not sealed is not mapped."""
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.truncate(loose, SIZE)
    try:
        with pytest.raises(OSError, match="sealed"):
            region.taken(offered(loose).name, SIZE)
    finally:
        os.close(loose)


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
                region.taken(path.name, SIZE)
        finally:
            path.unlink()


def test_who_asks_and_is_gone_does_no_harm(descriptor):
    """The maker goes on."""
    offer = Offer(os.dup(descriptor))
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(FOLDER / offer.name))
    offer.hand_out()
    offer.hand_out()  # and if nobody asks at all
    offer.end()

    assert offer.name not in names()


def test_more_than_there_is_is_an_error():
    """Memory that cannot be had is refused when it is made, not when it is written."""
    with pytest.raises(OSError, match="allocate memory"):
        region.make(1 << 60)


def test_where_nobody_says_how_much_there_is_it_is_made(monkeypatch):
    """The kernel then says whether it can be."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemTotal: 1 kB\n")
    os.close(region.make(SIZE))


def test_names_of_killed_servers_are_swept(descriptor):
    """Only sockets, of this user, with our prefix, and so old that nobody can still offer them."""
    old, new = Offer(os.dup(descriptor)), Offer(os.dup(descriptor))
    kept = FOLDER / (PREFIX + "not-a-socket")
    kept.touch()
    long_ago = time.time() - 3600
    for path in (FOLDER / old.name, kept):
        os.utime(path, (long_ago, long_ago))
    region.sweep()
    left = names()
    kept.unlink()
    for offer in (old, new):
        offer.end()

    assert old.name not in left
    assert {new.name, kept.name} <= left


def test_where_there_is_no_such_memory_nothing_is_swept_or_taken(monkeypatch):
    """On other systems."""
    monkeypatch.setattr(region, "AVAILABLE", False)
    region.sweep()

    with pytest.raises(OSError, match="must be a server's"):
        region.taken(PREFIX + 32 * "0", SIZE)


def test_places_are_aligned():
    """Each tensor begins at a multiple of 64 bytes."""
    assert [region.aligned(size) for size in (0, 1, 64, 65)] == [0, 64, 64, 128]
