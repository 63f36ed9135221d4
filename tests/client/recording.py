"""What the tests of `lossclient.torch` share: inputs, and a client that keeps what it sends."""

import torch

import lossclient
from losswire import tensor
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader

SEESAW = {"type": "SeesawLoss", "num_classes": 3}


def logits(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


def seesaw_inputs():
    return logits(6, 5), torch.tensor([0, 0, 1, 2, 3, 3])


class Recording(lossclient.Client):
    """A client that keeps the headers of what it sends, and the states."""

    def send(self, parts, timeout):
        """Keep header and state, and send."""
        self.keep(parts)
        return super().send(parts, timeout)

    def start(self, parts, timeout):
        """Likewise, and do not wait."""
        self.keep(parts)
        return super().start(parts, timeout)

    def keep(self, parts):
        """Keep header and state."""
        header = pb.ComputeHeader.FromString(parts.header)
        self.sent = [*getattr(self, "sent", []), header]
        reader = Reader(parts.payloads, tensor.unpack)
        state = reader.read(header.state, "state") if header.HasField("state") else None
        self.states = [*getattr(self, "states", []), state]
