"""The card of a loss: what its class and docstring say of it, as data.

A loss's docstring has the sections Parameters, Inputs, Returns, Raises and
Source, each entry `name: text` on four spaces, continued on eight. The same
card answers `ListLosses` and `lossserver losses NAME`.
"""

import functools
import inspect
import re
import typing
from dataclasses import MISSING, fields
from typing import Any

from lossserver import losses  # noqa: F401  (registers them)
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import LOSSES
from losswire import value
from losswire.v1 import loss_pb2 as pb

_SECTION = re.compile(r"^(Parameters|Inputs|Returns|Raises|Source):$", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): ", re.MULTILINE)


@functools.cache
def catalogue() -> pb.ListLossesResponse:
    """The cards of all losses, by name."""
    return pb.ListLossesResponse(losses=[card(name) for name in LOSSES])


def card(name: str) -> pb.LossCard:
    """The card of one loss.

    Raises:
        UnknownNameError: no loss of that name.
    """
    name = LOSSES.full_name(name)
    cls = LOSSES[name]
    text = inspect.getdoc(cls) or ""
    sections = _sections(text)
    parameters = _entries(sections.get("Parameters", ""))
    inputs = _entries(sections.get("Inputs", ""))
    return pb.LossCard(
        name=name,
        summary=text.splitlines()[0],
        text=text,
        parameters=[
            pb.Parameter(
                name=field.name,
                type=_written(field.type),
                default=None if field.default is MISSING else value.pack(field.default, []),
                text=parameters.get(field.name, ""),
            )
            for field in fields(cls)
        ],
        inputs=[pb.Input(name=key, text=said) for key, said in inputs.items()],
        source=" ".join(sections.get("Source", "").split()),
        batchable=issubclass(cls, RowwiseLoss),
    )


def _sections(text: str) -> dict[str, str]:
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _entries(section: str) -> dict[str, str]:
    parts = _ENTRY.split(section)
    texts = (" ".join(said.split()) for said in parts[2::2])
    return dict(zip(parts[1::2], texts, strict=True))


def _written(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
