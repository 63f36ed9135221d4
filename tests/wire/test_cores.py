"""losswire.cores: how many cores a process may use."""

import os
from pathlib import Path

import pytest

from losswire import cores as module
from losswire.cores import cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_those_that_it_is_bound_to(monkeypatch, tmp_path):
    """And not all that the machine has."""
    monkeypatch.setattr(module, "QUOTA", tmp_path / "none")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)


def test_where_the_system_does_not_say_all_of_them(monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(module, "QUOTA", Path("/nowhere"))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)

    assert cores() == 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000\n", 1.5), ("800000 100000\n", 4.0), ("max 100000\n", 4.0), ("odd\n", 4.0)],
)
def test_no_more_than_a_container_is_given(monkeypatch, tmp_path, text, expected):
    """Time of one core and a half is that, however many there are."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    monkeypatch.setattr(module, "QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)

    assert cores() == expected
