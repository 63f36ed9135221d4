"""The card of a loss: what its class and docstring say of it, as data.

A loss's docstring has the sections Parameters, Inputs, Returns, Raises and
Source, each entry `name: text` on four spaces, continued on eight. The same
card answers `ListLosses` and `lossserver losses NAME`, and docs/losses.md is
made of it.
"""

import functools
import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from lossserver import detection, losses  # noqa: F401  (registers them)
from lossserver.losses.loss import Loss
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import LOSSES
from losswire import tensor, value
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
    said = sections(text)
    inputs = _entries(said.get("Inputs", ""))
    return pb.LossCard(
        name=name,
        summary=text.splitlines()[0],
        text=text,
        parameters=_parameters(fields(cls), _entries(said.get("Parameters", ""))),
        inputs=[pb.Input(name=n, text=t, required=n in cls.NEEDS) for n, t in inputs.items()],
        source=" ".join(said.get("Source", "").split()),
        batchable=issubclass(cls, RowwiseLoss),
        remembers=cls.REMEMBERS or cls.remembers is not Loss.remembers,
        outputs=sorted(cls.OUTPUTS),
    )


def sections(text: str) -> dict[str, str]:
    """A docstring's sections by name, still indented; what stands before the first is under ""."""
    first, *parts = _SECTION.split(text)
    return {"": first} | dict(zip(parts[::2], parts[1::2], strict=True))


def signature(found: pb.LossCard, *, types: bool = True, width: int = 96) -> str:
    """A card's name and parameters with their defaults, as Python would write them."""
    arguments = []
    for parameter in found.parameters:
        typed = f"{parameter.name}: {parameter.type}" if types else parameter.name
        if parameter.HasField("default"):
            typed += f"{' = ' if types else '='}{default_of(parameter)}"
        arguments.append(typed)
    line = f"{found.name}({', '.join(arguments)})"
    if len(line) <= width:
        return line
    return "\n".join([f"{found.name}(", *(f"    {argument}," for argument in arguments), ")"])


def served(found: pb.LossCard) -> str:
    """How a server computes the loss, in a sentence or three."""
    company = "Together with other callers' rows." if found.batchable else "Alone."
    memory = " It may remember: send the last result's state." if found.remembers else ""
    named = "" if found.outputs == ["loss"] else f" Outputs: {', '.join(found.outputs)}."
    return company + memory + named


def default_of(parameter: pb.Parameter) -> str:
    """The default of a parameter that has one, as Python writes it."""
    return _quoted(value.Reader([], tensor.unpack).read(parameter.default, parameter.name))


def _parameters(known: tuple[Field[Any], ...], said: Mapping[str, str]) -> list[pb.Parameter]:
    """In the order in which the docstring explains them."""
    place = {name: i for i, name in enumerate(said)}
    return [
        pb.Parameter(
            name=field.name,
            type=_written(field.type),
            default=_default(field),
            text=said.get(field.name, ""),
        )
        for field in sorted(known, key=lambda field: place.get(field.name, len(place)))
    ]


def _default(field: Field[Any]) -> pb.Value | None:
    if field.default_factory is not MISSING:
        return value.pack(field.default_factory(), [])
    return None if field.default is MISSING else value.pack(field.default, [])


def _entries(section: str) -> dict[str, str]:
    parts = _ENTRY.split(section)
    texts = (" ".join(said.split()) for said in parts[2::2])
    return dict(zip(parts[1::2], texts, strict=True))


def _written(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(_quoted, typing.get_args(hint)))
    if isinstance(hint, type) and not hasattr(hint, "__args__"):
        return hint.__name__
    return str(hint).replace("typing.", "")


def _quoted(given: object) -> str:
    return f'"{given}"' if isinstance(given, str) else repr(given)
