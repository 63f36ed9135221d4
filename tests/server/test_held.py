"""lossserver.held: which tensors stay, whose, and how long."""

import pytest
import torch

from lossserver.config import Residence
from lossserver.held import BESIDES, Held
from lossserver.metrics import Metrics
from losswire.errors import MessageTooLargeError
from tests.server.test_metrics import page

SIZE = 10_000
EACH = SIZE + BESIDES


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def held(clock, metrics):
    """Room for four tensors, three of one tenant, for ten seconds."""
    residence = Residence(
        max_resident_bytes=4 * EACH, max_tenant_resident_bytes=3 * EACH, resident_ttl=10
    )
    return Held(residence, clock, metrics)


def put(held, tenant, *names, size=SIZE):
    for name in names:
        held.put(tenant, name, torch.zeros(size, dtype=torch.uint8))


def found(held, tenant, names):
    return "".join(chr(name) for name in names if held.find(tenant, bytes([name])) is not None)


def test_a_tenant_finds_what_it_put(held):
    """The very bytes, by their digest."""
    content = torch.zeros(SIZE, dtype=torch.uint8)
    held.put("a", b"1", content)

    assert held.find("a", b"1") is content


def test_nobody_finds_what_another_put(held):
    """Each has its own, also of the same digest."""
    put(held, "a", b"1")
    there = held.find("b", b"1")
    put(held, "b", b"1")

    assert there is None
    assert (held.find("b", b"1") is not None, held.bytes) == (True, 2 * EACH)


def test_the_same_twice_is_held_once(held):
    """A second put of the same bytes takes no more room."""
    put(held, "a", b"1", b"1")

    assert held.bytes == EACH


def test_what_is_not_used_goes_in_time(held, clock):
    """The time to live begins anew with each use; the next end is told."""
    put(held, "a", b"1", b"2")
    clock.now = 6
    held.find("a", b"1")
    due = held.expire()
    clock.now = 10
    later = held.expire()

    assert (due, later) == (4, 6)
    assert found(held, "a", b"12") == "1"
    clock.now = 20
    assert held.expire() is None
    assert held.bytes == 0


def test_a_tenant_makes_room_for_itself(held):
    """Over its own quota its least recently used one goes, and nothing of others."""
    put(held, "b", b"9")
    put(held, "a", b"1", b"2", b"3")
    held.find("a", b"1")
    put(held, "a", b"4")

    assert found(held, "a", b"1234") == "134"
    assert found(held, "b", b"9") == "9"


def test_over_the_quota_of_all_the_oldest_goes(held):
    """Whoever's it is."""
    put(held, "b", b"9", b"8")
    put(held, "a", b"1", b"2", b"3")

    assert (found(held, "b", b"98"), found(held, "a", b"123")) == ("8", "123")


def test_a_large_one_takes_the_place_of_several(held):
    """As many go as it needs."""
    put(held, "a", b"1", b"2", b"3")
    put(held, "a", b"4", size=2 * SIZE)

    assert found(held, "a", b"1234") == "34"
    assert held.bytes == 3 * EACH - BESIDES


@pytest.mark.parametrize("size", [1, SIZE, 3 * SIZE + 2 * BESIDES])
def test_many_do_not_take_more_than_the_quota(held, size):
    """Thousands of puts of thousands of tenants leave no more than there is room for."""
    for number in range(5000):
        put(held, f"tenant {number % 1000}", number.to_bytes(4, "big"), size=size)

        assert held.bytes <= 4 * EACH
    assert len(held._all) * (size + BESIDES) == held.bytes
    assert sum(map(len, held._of.values())) == len(held._all)


def test_what_could_never_stay_is_refused(held):
    """A tensor above the quota of a tenant; its message names the options."""
    held.check(3 * EACH - BESIDES)
    with pytest.raises(MessageTooLargeError, match=r"at most 34096 bytes.*--max-resident-bytes"):
        held.check(3 * EACH - BESIDES + 1)


def test_who_has_found_it_keeps_it(held):
    """A tensor in use lives on though it was evicted."""
    put(held, "a", b"1")
    in_use = held.find("a", b"1")
    put(held, "a", b"2", b"3", b"4")

    assert held.find("a", b"1") is None
    assert in_use.tolist() == [0] * SIZE


def test_what_becomes_of_them_is_counted(held, clock, metrics):
    """Puts, hits, misses, evictions and expiries; and the bytes there are."""
    put(held, "a", b"1", b"1", b"2", b"3", b"4")
    found(held, "a", b"14")
    before = page(metrics)
    clock.now = 10
    held.expire()
    told = page(metrics)

    assert before["resident_bytes",] == 3 * EACH
    assert {event: told["resident_total", event] for event in ("put", "hit", "miss")} == {
        "put": 4,
        "hit": 1,
        "miss": 1,
    }
    assert (told["resident_total", "evicted"], told["resident_total", "expired"]) == (1, 3)
    assert told["resident_bytes",] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_resident_bytes": -1}, "max_resident_bytes must be at least 0; given -1"),
        ({"max_tenant_resident_bytes": -1}, "max_tenant_resident_bytes must be at least 0"),
        ({"resident_ttl": 0.0}, "resident_ttl must be above 0; given 0.0"),
    ],
)
def test_a_residence_that_makes_no_sense_is_refused(given, said):
    """The message names option and value."""
    with pytest.raises(ValueError, match=said):
        Residence(**given)
