"""Every golden case of a head, through the client and a server in another process."""

import pytest
import torch

import lossclient
from lossclient.call import encode_call
from lossclient.reply import decode_reply
from lossclient.torch_bytes import to_bytes, to_torch
from lossserver.tree import map_tensors
from tests.detection.golden_heads import GoldenHead, golden_heads, leaves, manifest
from tests.losses.test_golden import assert_close

HEADS = golden_heads()
every_head = pytest.mark.parametrize("golden", HEADS, ids=str)


def compute(client, golden: GoldenHead, grad_output=None):
    """The server's answer as tensors."""
    message = encode_call(
        golden.config,
        map_tensors(to_bytes, golden.call()),
        wrt=("pred",),
        grad_output=map_tensors(to_bytes, grad_output),
    )
    return decode_reply(client.send(message, 60), to_torch)


def assert_gradients(golden, result, expected):
    """Each prediction's gradient is upstream's; where upstream has none, there is none, or it is 0."""
    for name, grad in leaves(golden.names(), result.grad):
        key = expected[name]
        if key is None:
            assert grad is None or not grad.any()
        elif "ill-conditioned" not in golden.case["tags"]:
            assert_close(golden, grad, golden.tensor(key))


@every_head
def test_losses_and_gradients(client, golden):
    """The losses and the gradient of every prediction are upstream's; where it raises, we refuse."""
    expected = golden.expected
    if expected.get("raises"):
        with pytest.raises(lossclient.RequestError):
            compute(client, golden)
        return
    result = compute(client, golden)
    structure = expected["structure"]["losses"]

    assert result.losses.keys() == structure.keys()
    for name, value in leaves(structure, result.losses):
        assert_close(golden, value, golden.tensor(expected["outputs"][name]["key"]))
    assert_gradients(golden, result, expected["grad_ones"])


@pytest.mark.parametrize("golden", [g for g in HEADS if g.expected.get("grad_go")], ids=str)
def test_uneven_upstream(client, golden):
    """An upstream gradient of its own for each loss of each level gives upstream's gradients."""
    expected = golden.expected
    upstream = {
        name: _upstream(golden, tree)
        for name, tree in expected["structure"]["losses"].items()
        if any(one in expected["go"] for one, _ in leaves(tree, tree))
    }

    assert_gradients(golden, compute(client, golden, upstream), expected["grad_go"])


def _upstream(golden, tree):
    if isinstance(tree, list):
        return [_upstream(golden, one) for one in tree]
    return golden.tensor(golden.expected["go"][tree["$o"]]).to(torch.float64)


def test_every_head_is_checked():
    """No head is left out for a name that is not registered."""
    assert {case["group"] for case in manifest()} == {golden.case["group"] for golden in HEADS}
