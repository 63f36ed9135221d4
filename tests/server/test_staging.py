"""lossserver.staging: what waits for what, and that nobody's memory is lent while it is in use."""

from collections import deque
from contextlib import contextmanager

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from lossserver.compute import begin, compute
from lossserver.losses.focal import FocalLoss
from lossserver.slab import Slab, Slabs
from lossserver.staging import Staging, Streamed
from lossserver.tree import tensors
from tests.losses.calls import CPU, assert_all_close, job_of
from tests.server.kernels import AtOnce
from tests.server.rehearsal import DEVICE, Rehearsal, rehearsal


def focal(rows, **options):
    """A job of focal loss."""
    generator = torch.Generator().manual_seed(rows)
    inputs = {
        "pred": torch.randn(rows, 5, generator=generator),
        "target": torch.randint(0, 6, (rows,), generator=generator),
    }
    if options.pop("weighs", False):
        inputs["weight"] = torch.rand(rows, generator=generator)
    return job_of({"type": "FocalLoss"}, inputs, **options)


def half(rows):
    """A job whose tensors are cast on the device, each way."""
    inputs = {"pred": torch.randn(rows, 4).half(), "target": torch.randn(rows, 4)}
    return job_of({"type": "SmoothL1Loss"}, inputs, reduction_override="none")


def alone(rows):
    """A job that no batch takes."""
    pred, target = torch.rand(rows, 1), torch.randint(0, 2, (rows, 1))
    config = {"type": "GHMC", "momentum": 0.5}
    return job_of(config, {"pred": pred, "target": target, "weight": torch.ones(rows, 1)})


KINDS = {
    "sums": lambda rows: [focal(rows), focal(rows + 3, weighs=True)],
    "rows": lambda rows: [
        focal(rows, reduction_override="none"),
        focal(2, grad_output=torch.tensor(0.5)),
    ],
    "of weights": lambda rows: [focal(rows, weighs=True, wrt=("pred", "weight"))],
    "half": lambda rows: [half(rows), half(1)],
    "alone": lambda rows: [alone(rows)],
}

batches_of = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(1, 40)), max_size=7)


@contextmanager
def streamed(*, size=1 << 16, lucky=lambda: False, streams=None):
    """The way to the device that is not there, and its streams."""
    streams = streams or Rehearsal(lucky)
    memory = torch.empty(size, dtype=torch.uint8)
    streams.slabs_in(memory)
    with rehearsal(streams):
        yield Streamed(DEVICE, Slabs(memory), streams), streams


def pipelined(batches, way, kernels, keep=99):
    """Each batch begun before the one before it is finished; the last few results are held."""
    pending, held = deque(), deque()
    for batch in [*batches, None]:
        if batch is not None:
            pending.append((batch, begin(batch, way, kernels)))
        if len(pending) > 1 or (batch is None and pending):
            jobs, first = pending.popleft()
            held.append((jobs, first.finish()))
        if len(held) > keep:
            held.popleft()
    return held


def read(results):
    """What a reply would read."""
    return [[leaf.clone() for leaf in tensors([r.losses, r.grads, r.state])] for r in results]


@pytest.mark.parametrize("kernels", [None, AtOnce()], ids=["eager", "kernel"])
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(
    wanted=batches_of,
    size=st.sampled_from([64, 2048, 1 << 16]),
    keep=st.integers(0, 3),
    luck=st.randoms(use_true_random=False),
)
def test_no_order_of_events_lets_one_overtake_another(kernels, wanted, size, keep, luck):
    """Whatever is done when: nothing is read before it is there, nor written while it is read."""
    batches = [KINDS[kind](rows) for kind, rows in wanted]
    expected = {id(batch): read(compute(batch, CPU, kernels)) for batch in batches}
    with streamed(size=size, lucky=lambda: luck.random() < 0.5) as (way, streams):
        held = pipelined(batches, way, kernels, keep)
        found = [(batch, read(results)) for batch, results in held]

    assert streams.faults == []
    for batch, results in found:
        assert_all_close(results, expected[id(batch)])


class Deaf(Rehearsal):
    """Streams on which nothing waits."""

    def after(self, stream, event):
        """Go on."""


class Forgetful(Rehearsal):
    """Streams whose memory is lent again as soon as Python lets go of it."""

    def keep(self, tensor, stream):
        """Do not."""


@pytest.mark.parametrize("streams", [Deaf, Forgetful])
@pytest.mark.parametrize("kind", ["sums", "half", "alone"])
def test_the_rehearsal_sees_what_is_forgotten(streams, kind):
    """Without events, or without a word on who uses what, the test above would fail."""
    with streamed(streams=streams()) as (way, told):
        pipelined([KINDS[kind](4) for _ in range(3)], way, None)

    assert told.faults


def test_the_rehearsal_sees_memory_that_is_lent_too_early(monkeypatch):
    """A slab that does not wait for its copies is written while the device reads it."""
    monkeypatch.setattr(Slab, "until", lambda *_: None)
    with streamed() as (way, streams):
        pipelined([KINDS["sums"](4) for _ in range(3)], way, None)

    assert any("inward does" in fault for fault in streams.faults)


@pytest.mark.parametrize("kernels", [None, AtOnce()], ids=["eager", "kernel"])
@pytest.mark.parametrize("kind", ["sums", "rows", "of weights", "half"])
def test_a_batch_is_begun_without_waiting(kind, kernels):
    """All is queued: nothing is read back, and no copy is waited for, before the results are."""
    with streamed() as (way, streams):
        pending = [begin(KINDS[kind](rows), way, kernels) for rows in (3, 5)]

        assert streams.reads == streams.waits == []
        assert len([one.finish() for one in pending]) == 2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_results_that_are_dropped_leave_nothing_behind(kind):
    """Whether a batch is read, finished and not read, or not even finished: its memory is free again."""
    with streamed(lucky=lambda: True) as (way, _):
        whole = way._slabs.free
        read(begin(KINDS[kind](4), way).finish())
        begin(KINDS[kind](4), way).finish()
        begin(KINDS[kind](4), way)

        assert way._slabs.free == whole


def test_one_result_that_is_held_keeps_its_batch():
    """What a reply still reads is not written, however many batches come meanwhile."""
    jobs = [focal(rows) for rows in (5, 9)]
    with streamed(lucky=lambda: True) as (way, streams):
        held = begin(jobs, way).finish()[1]
        before = read([held])
        for _ in range(50):
            begin(jobs, way).finish()
        after = read([held])
        taken = 1 - way._slabs.free / (1 << 16)

        assert streams.faults == []
        assert 0 < taken < 0.05
    assert_all_close(after, before, rtol=0, atol=0)


def test_an_error_leaves_nothing_behind(monkeypatch):
    """A batch that raises on the device gives its memory back, and the next one is computed."""
    with streamed(lucky=lambda: True) as (way, streams):
        whole = way._slabs.free
        with monkeypatch.context() as patched:
            patched.setattr(FocalLoss, "formula", lambda *_, **__: 1 // 0)
            with pytest.raises(ArithmeticError):
                begin(KINDS["rows"](4), way)
        (fine,) = begin([alone(3)], way).finish()

        assert streams.faults == []
        assert fine.losses["loss"].isfinite()
        del fine
        assert way._slabs.free == whole


def test_on_the_cpu_tensors_are_used_where_they_lie():
    """A lone part is the very tensor, and what is found is not copied."""
    part, found = torch.rand(3), torch.rand(4)

    assert Staging(CPU).bring_in([[part]])[0].data_ptr() == part.data_ptr()
    assert Staging(CPU).bring_out([found])()[0].data_ptr() == found.data_ptr()
