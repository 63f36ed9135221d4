"""A config as it was sent → the loss that it describes. Names are looked up, nothing is executed."""

import functools

from lossserver.losses.loss import Loss
from lossserver.registry import LOSSES, RefusedError, UnknownNameError
from losswire.errors import SpecError, UnknownLossError
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader

#: Bytes of a config. The longest in use, a class_weight of LVIS's 1,203 classes, has 14 KiB.
MAX_CONFIG = 1 << 16


def loss_of(config: bytes) -> tuple[str, Loss]:
    """The name in the registry, and the loss, of a config: a serialised Value.

    Raises:
        SpecError, UnknownLossError: what is wrong with it.
    """
    if len(config) > MAX_CONFIG:
        raise SpecError(
            f"must have at most {MAX_CONFIG} bytes", field="config", given=f"{len(config)} bytes"
        )
    return _loss(config)


@functools.lru_cache(maxsize=1024)
def _loss(serialised: bytes) -> tuple[str, Loss]:
    """The loss of a serialised config, and its name. Trainers send the same few again and again."""
    sent = pb.Value.FromString(serialised)
    config = Reader([], lambda given: given).read(sent, "config") if serialised else None
    if not isinstance(config, dict):
        raise SpecError(
            'must be a map such as {"type": "L1Loss"}',
            field="config",
            given="nothing" if config is None else type(config).__name__,
        )
    try:
        loss = LOSSES.build(config)
    except UnknownNameError as error:
        raise UnknownLossError(str(error), field="config.type") from None
    except RefusedError as refusal:
        raise SpecError(
            refusal.rule, field=f"config.{refusal.field}", given=refusal.given
        ) from None
    return LOSSES.named(config), loss
