"""Every golden case of a served loss once more, on every way that its bytes can go."""

import pytest

import lossclient
from losswire.offer import AVAILABLE
from tests.losses import test_golden
from tests.losses.test_golden import GOLDENS

#: test_golden.py sends over the stream, as a client does by itself with what is small.
PLANES = ["inline", "pieces"] + ["shared"] * AVAILABLE


@pytest.fixture(scope="module", params=PLANES)
def on_plane(server, request):
    """A client that sends all its calls one way."""
    with lossclient.connect(server.target, plane=request.param) as client:
        yield client


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_a_call_is_the_same_on_every_way(on_plane, golden):
    """Loss, gradients and state are upstream's there, too, and what is refused is refused."""
    test_golden.test_value_and_gradient(on_plane, golden)
