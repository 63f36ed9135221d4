"""lossserver.slab: where tensors lie, and when their memory is lent again."""

import gc
import itertools
import weakref

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from lossserver.slab import ALIGNMENT, Slabs, joined, plan, write

DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64]


class Event:
    """Something that has happened once the test says so."""

    def __init__(self):
        self.done = False

    def query(self):
        """Whether it has."""
        return self.done


def slabs(size=1 << 12):
    """Memory of that many bytes."""
    return Slabs(torch.zeros(size, dtype=torch.uint8))


def column_of(dtype, sizes, trailing):
    """Parts of those sizes that concatenate to one tensor."""
    shapes = [(size, *trailing) for size in sizes]
    return [torch.randint(0, 2, shape).to(dtype) for shape in shapes]


columns_of = st.lists(
    st.builds(
        column_of,
        st.sampled_from(DTYPES),
        st.lists(st.integers(0, 5), min_size=1, max_size=4),
        st.lists(st.integers(0, 3), max_size=2),
    ),
    max_size=5,
)


@hypothesis.given(columns=columns_of)
def test_columns_lie_one_after_the_other(columns):
    """Each at its place, aligned, of the dtype that was sent, and what torch.cat would give."""
    places, size = plan(columns)
    memory = torch.zeros(size, dtype=torch.uint8)
    write(columns, places, memory)

    assert all(place.offset % ALIGNMENT == 0 for place in places)
    assert all(a.end <= b.offset for a, b in itertools.pairwise(places))
    for place, column in zip(places, columns, strict=True):
        assert place.of(memory).dtype is column[0].dtype
        assert torch.equal(place.of(memory), joined(column))


def test_parts_need_not_be_contiguous_nor_of_one_dtype():
    """A broadcast weight, and one in half precision, become part of the same column."""
    column = [torch.ones(()).expand(3, 1), torch.rand(1, 2).t().half()]
    (place,), size = plan([column])
    memory = torch.zeros(size, dtype=torch.uint8)
    write([column], [place], memory)

    assert torch.equal(place.of(memory), torch.cat(column))


@hypothesis.given(
    steps=st.lists(st.tuples(st.sampled_from(["take", "drop", "done"]), st.integers(0, 1500)))
)
def test_no_byte_is_lent_twice(steps):
    """Slabs in use never overlap, and all memory comes back when all of them have ended."""
    own, held, ending = slabs(), [], []
    for step, number in steps:
        if step == "take" and (slab := own.take(number)):
            event = Event()
            slab.until(event)
            held.append((slab.memory, event))
            del slab
        elif step == "drop" and held:
            memory, event = held.pop(number % len(held))
            ending.append((memory.data_ptr(), memory.data_ptr() + len(memory), event))
            del memory
        elif step == "done" and ending:
            ending.pop(number % len(ending))[2].done = True
        spans = [(m.data_ptr(), m.data_ptr() + len(m)) for m, _ in held]
        spans = sorted(spans + [(low, high) for low, high, _ in ending])
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert own.free == (1 << 12) - sum(high - low for low, high in spans)
    for event in [event for _, event in held] + [event for *_, event in ending]:
        event.done = True
    held.clear()

    assert own.free == 1 << 12
    assert own.take(1 << 12) is not None


def test_too_much_is_refused_and_not_waited_for():
    """A slab for which there is no room, now or ever, is None."""
    own = slabs()
    first = own.take(4000)

    assert own.take(1 << 20) is None
    assert own.take(200) is None
    del first
    assert own.take(200) is not None


@pytest.mark.parametrize(
    "view",
    [
        lambda memory: memory,
        lambda memory: memory[64:96].view(torch.float32).view(2, 4).unbind()[1],
        lambda memory: memory.numpy()[5:],
        lambda memory: memory.numpy().data,
    ],
    ids=["tensor", "row", "array", "buffer"],
)
def test_whatever_refers_to_a_slab_holds_it(view):
    """A row of it, an array of that, the buffer of an array that a reply is made of."""
    own = slabs()
    seen = view(own.take(1000).memory)

    assert own.free == (1 << 12) - 1024
    del seen
    assert own.free == 1 << 12


def test_a_slab_in_a_circle_is_found_by_the_collector():
    """What only garbage collection ends comes back as well, whoever that interrupts."""
    own = slabs()
    circle = [own.take(1000).memory]
    circle.append(circle)
    del circle
    gc.collect()

    assert own.free == 1 << 12


def test_nothing_outlives_the_memory():
    """Slabs that are still lent keep it; then it ends."""
    own = slabs()
    memory = weakref.ref(own._bytes)
    slab = own.take(10)
    del own
    gc.collect()

    assert memory() is not None
    del slab
    gc.collect()
    assert memory() is None
