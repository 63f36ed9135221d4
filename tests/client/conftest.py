"""Remote losses of the shared server."""

import pytest

from lossclient.torch import RemoteLoss


@pytest.fixture
def remote(client):
    """Makes a RemoteLoss of the shared server."""
    return lambda **config: RemoteLoss(config, client)
