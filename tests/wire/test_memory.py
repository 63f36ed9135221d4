"""Memory that stays. Each test is a process of its own: what is kept is the whole process's."""

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import lossclient
from losswire import memory
from tests.conftest import Serve, ServerProcess

# Page faults are counted, and a machine that is short of memory has others.
pytestmark = [
    pytest.mark.skipif(memory._glibc() is None, reason="the allocator is not glibc's"),
    pytest.mark.alone,
]

#: Pages of 4 KiB in 128 MiB: faults of a block that is new.
NEW = 32768

BEFORE = """
import random, resource, sys, threading
from losswire import memory

MIB = 1 << 20

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def large():
    return [b"x" * (128 * MIB) for _ in range(2)]

def burst():
    live, draw = [], random.Random(1)
    for _ in range(600):
        live.append(b"x" * int(2 ** draw.uniform(8, 24)))
        if len(live) > 30:
            live.pop(draw.randrange(len(live)))
"""


def told(program: str) -> list[int]:
    """The numbers that a process prints."""
    command = [sys.executable, "-W", "error", "-c", BEFORE + textwrap.dedent(program)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return [int(word) for word in done.stdout.split()]


def test_a_large_block_is_paid_for_once():
    """From the second time on, large blocks cost no page faults."""
    first, second, third = told(
        """
        memory.keep()
        print(*(faults(large) for _ in range(3)))
        """
    )

    assert first > 1.9 * NEW
    assert second < 100
    assert third < 100


def test_a_thread_shares_the_only_heap():
    """With one arena a block over 64 MiB is kept whichever thread took it."""
    faults_there = told(
        """
        memory.keep(arenas=1)
        def ask():
            print(*(faults(large) for _ in range(3)))
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        """
    )

    assert faults_there[2] < 100


def test_a_burst_of_many_sizes_leaves_no_more_than_the_bound():
    """What a burst of blocks of all sizes left free is given back once it is too much."""
    before, peak, after = told(
        """
        memory.keep(8 * MIB, arenas=1)
        before = memory._resident()
        threads = [threading.Thread(target=burst) for _ in range(4)]
        for thread in threads:
            thread.start()
        peak = 0
        for thread in threads:
            thread.join()
            peak = max(peak, memory._resident())
        memory._watches[0].look()
        print(before, peak, memory._resident())
        """
    )

    assert after < before + (12 << 20) < peak


def test_what_is_kept_is_given_back_when_that_is_asked():
    """keep(0) undoes it: nothing is kept, and a large block is paid for each time."""
    kept, after, again = told(
        """
        memory.keep()
        large()
        kept = memory.kept()
        memory.keep(0)
        print(kept, memory.kept(), faults(large))
        """
    )

    assert kept > 200 << 20
    assert after == 0
    assert again > NEW


def test_asking_twice_changes_the_bound():
    """There is one watch, with the last bound."""
    assert told(
        """
        print(int(memory.keep()), int(memory.keep(5)))
        print(len(memory._watches), memory._watches[0].most)
        """
    ) == [1, 1, 1, 5]


def test_a_forked_child_keeps_nothing():
    """A child has no thread that would hold it to the bound, so it is as it was before."""
    assert told(
        """
        import os, warnings
        warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside a thread
        memory.keep()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            large()
            os.write(writing, b"%d" % (faults(large) > 1000 and memory.kept() == 0))
            os._exit(0)
        os.waitpid(child, 0)
        print(os.read(reading, 9).decode())
        """
    ) == [1]


def test_a_negative_bound_is_refused():
    """A bound below zero means nothing."""
    with pytest.raises(ValueError, match="at least 0; given -1"):
        memory.keep(-1)


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    """Without glibc's malloc nothing is kept, and nothing is done."""
    monkeypatch.setattr(memory, "_glibc", lambda: None)

    assert not memory.keep()


def test_a_server_keeps_its_memory(serve: Serve):
    """By default a server pays for the memory of a large call once; told to keep nothing, each time."""
    kept, given_back = (faults_of_calls(serve(*flags)) for flags in ((), ("--keep-memory", "0")))

    assert min(kept[2:]) < 0.3 * min(given_back[2:])


def faults_of_calls(server: ServerProcess) -> list[int]:
    """Page faults of a server in each of some identical large calls."""
    pred = np.zeros((1024, 8192), np.float32)
    target = np.zeros(1024, np.int64)
    counts = [faults_of(server.process.pid)]
    with lossclient.connect(server.target, plane="inline") as client:
        for _ in range(8):
            client.compute({"type": "CrossEntropyLoss"}, pred, target)
            counts.append(faults_of(server.process.pid))
    return [after - before for before, after in itertools.pairwise(counts)]


def faults_of(pid: int) -> int:
    """Page faults of a process since its start."""
    # After the name, which may hold blanks: state, ppid, pgrp, session, tty, tpgid, flags, minflt.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
