"""losswire.region: memory that two processes have, handed over by a socket."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from losswire import offer, region
from tests.wire.offers import offered

# Names in /dev/shm are counted, and other tests' would be among them.
pytestmark = [
    pytest.mark.skipif(not offer.AVAILABLE, reason="needs Linux"),
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


def test_another_process_has_the_same_memory(descriptor):
    """What one that was told the name writes, the maker reads."""
    ours = region.mapped(descriptor, SIZE)
    with offered(descriptor) as name:
        taking = [sys.executable, "-c", TAKE, name]
        subprocess.run(taking, check=True)  # noqa: S603  (our own program)

    assert ours[:6] == b"hello\0"


def test_nobody_can_cut_it_off(descriptor):
    """Neither side can make it shorter under the other, who would die of that."""
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 10)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0)

    assert os.fstat(descriptor).st_size == SIZE


def test_who_hands_out_too_little_is_not_believed(descriptor):
    """A region that is shorter than was said is not mapped."""
    with offered(descriptor) as name, pytest.raises(OSError, match="must have"):
        region.taken(name, SIZE + 1)


def test_who_could_cut_it_off_is_not_believed():
    """A file that is not sealed is not mapped."""
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.truncate(loose, SIZE)
    try:
        with offered(loose) as name, pytest.raises(OSError, match="sealed"):
            region.taken(name, SIZE)
    finally:
        os.close(loose)


def test_more_than_there_is_is_an_error():
    """Memory that cannot be had is refused when it is made, not when it is written."""
    with pytest.raises(OSError, match="allocate memory"):
        region.make(1 << 60)


def test_where_nobody_says_how_much_there_is_it_is_made(monkeypatch):
    """The kernel then says whether it can be."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemTotal: 1 kB\n")
    os.close(region.make(SIZE))


def test_places_are_aligned():
    """Each tensor begins at a multiple of 64 bytes."""
    assert [region.aligned(size) for size in (0, 1, 64, 65)] == [0, 64, 64, 128]
