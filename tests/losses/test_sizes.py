"""A small message cannot ask for far more than was sent."""

import pytest
import torch

import losswire.errors
from lossclient.call import encode_call
from lossclient.torch_bytes import to_bytes
from lossserver.decode import opened
from lossserver.tree import map_tensors
from tests.losses.calls import answer, job_of

#: Numbers of a dimension that costs no byte beside one of 0.
FREE = 1 << 20


def nested(depth):
    """The config of a sum of two sums, and so on."""
    if not depth:
        return {"type": "L1Loss"}
    return {"type": "Sum", "parts": {name: nested(depth - 1) for name in "ab"}}


def sum_of(count, config):
    """The config of a sum of so many losses alike."""
    return {"type": "Sum", "parts": {str(i): config for i in range(count)}}


def message_of(config, inputs):
    """What a client sends."""
    return encode_call(config, map_tensors(to_bytes, inputs), wrt=())


TOO_LARGE = {
    "many parts": (sum_of(65, {"type": "L1Loss"}), (4, 4), "must be at most 64; given 65"),
    "sums of sums": (nested(7), (4, 4), "must be at most 64; given 128"),
    "parts of a large tensor": (
        sum_of(40, {"type": "L1Loss"}),
        (1 << 18, 1),
        "must read what was sent at most 4 times, or 16777216 numbers in all; given 20971520",
    ),
    "pairs of several parts": (
        sum_of(3, {"type": "InfoNCELoss"}),
        (5000, 1),
        "must not make over 67108864 pairs of queries and keys; .* given 75000000",
    ),
    "broadcasting of several parts": (
        sum_of(2, {"type": "MSELoss"}),
        ((4096, 1), (1, 4096)),
        "must not broadcast to over 16777216 elements",
    ),
    "vectors of nothing": ({"type": "NTXentLoss"}, (4096, 0), "D ≥ 1"),
    "sequences of nothing": (
        {"type": "PolicyGradientLoss", "normalization": "sequence"},
        (FREE, 0),
        "must not be empty in a row",
    ),
    "counts": ({"type": "Accuracy", "topk": [1] * 65}, (4, 4), "must not be over 64 of them"),
}


@pytest.mark.parametrize(("config", "shape", "rule"), TOO_LARGE.values(), ids=list(TOO_LARGE))
def test_more_than_was_sent_is_refused(config, shape, rule):
    """What parts make counts together, and what costs no byte is not there for the asking."""
    shapes = shape if isinstance(shape[0], tuple) else (shape, shape)
    pred, target = (torch.zeros(one) for one in shapes)

    with pytest.raises(losswire.errors.RequestError, match=rule):
        job_of(config, {"pred": pred, "target": target}, wrt=())


def test_stacks_make_pairs_each():
    """CornerNet's pairs of objects are counted for each stack, which hold them at the same time."""
    heat, tags, offsets = torch.zeros(1, 1, 1, 1), torch.zeros(1, 5000), torch.zeros(1, 5000, 2)
    stack = [heat, heat, tags, tags, offsets, offsets]
    target = [heat, heat, torch.ones(1, 5000, dtype=torch.bool), offsets, offsets]
    config = {"type": "CornerNet.AELoss"}
    job_of(config, {"pred": stack * 2, "target": target}, wrt=())

    with pytest.raises(losswire.errors.RequestError, match="pairs of objects"):
        job_of(config, {"pred": stack * 3, "target": target}, wrt=())


def test_the_allowance_is_each_calls_own():
    """A sum that is refused leaves nothing behind that the next call would pay for."""
    inputs = {"pred": torch.zeros(5000, 1), "target": torch.zeros(5000, 1)}
    for _ in range(2):
        with pytest.raises(losswire.errors.RequestError, match="75000000"):
            job_of(sum_of(3, {"type": "InfoNCELoss"}), inputs)
    job_of(sum_of(2, {"type": "InfoNCELoss"}), inputs)
    job_of({"type": "InfoNCELoss"}, inputs)


def test_labels_of_no_rows_may_be_of_any_width():
    """What would be made for each place of a row is not made where there are no rows."""
    none = torch.zeros(0, dtype=torch.long)
    ctc = {
        "pred": torch.zeros(1, 0, 2),
        "target": torch.zeros(0, FREE, dtype=torch.long),
        "input_lengths": none,
        "target_lengths": none,
    }
    teacher = {"indices": torch.zeros(0, FREE, dtype=torch.long), "logits": torch.zeros(0, FREE)}

    assert not answer({"type": "torch.CTCLoss", "reduction": "sum"}, ctc).loss
    top = {"pred": torch.zeros(0, FREE), "target": teacher}
    assert not answer({"type": "TopKKLLoss", "reduction": "sum"}, top).loss


def test_what_is_slow_to_decode_is_known_before():
    """Many values, or a loss whose check is slow: then a thread decodes, and nobody else waits."""
    two = {"pred": torch.zeros(4, 4), "target": torch.zeros(4, 4)}
    masks = {"type": "BoundaryLoss", "mode": "binary", "target_form": "masks"}

    assert not opened(message_of({"type": "L1Loss"}, two)).slow
    assert not opened(message_of(masks | {"target_form": "distances"}, two)).slow
    assert opened(message_of(masks, two)).slow
    assert opened(message_of(sum_of(2, {"type": "L1Loss"}), two)).slow
    assert opened(message_of({"type": "L1Loss"}, two | {"target": [None] * 2000})).slow
