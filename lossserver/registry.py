"""Names to losses: what `{"type": "FocalLoss", "gamma": 2}` means.

A name reaches here from a stranger's request, so it is looked up in a dict and
nowhere else: no dotted paths, no imports, no fallback. The one scope that is
understood is "mmdet.", which MMDetection's own configs write.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


class RefusedError(ValueError):
    """A parameter, input or option breaks a rule.

    Attributes:
        field: its name, such as "gamma" or "target".
        rule: what must hold.
        given: what was there instead.
    """

    def __init__(self, field: str, rule: str, given: object) -> None:
        super().__init__(f"{field}: {rule}; given {given}")
        self.field = field
        self.rule = rule
        self.given = given


class UnknownNameError(LookupError):
    """No loss is registered under this name."""


class Registry:
    """A set of loss classes, by class name.

    Example::

        @LOSSES.register
        @dataclass(frozen=True, kw_only=True)
        class L1Loss(RowwiseLoss): ...

        LOSSES.build({"type": "L1Loss"})
    """

    def __init__(self) -> None:
        self._by_name: dict[str, type[Any]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Add `cls` under its own name. Raises ValueError if the name is taken."""
        if cls.__name__ in self._by_name:
            raise ValueError(f"a loss named {cls.__name__!r} is already registered")
        self._by_name[cls.__name__] = cls
        return cls

    def build(self, config: Mapping[str, Any]) -> Any:
        """Make the loss that `config` describes.

        Raises:
            UnknownNameError: no loss of that name.
            RefusedError: no `type`, a parameter the loss does not have or needs and
                is not given, one of the wrong type, or a value it refuses.
        """
        params = dict(config)
        if "type" not in params:
            raise RefusedError("type", "a config must name its loss", f"keys {sorted(params)}")
        cls = self[params.pop("type")]
        known = {field.name: field for field in fields(cls)}
        hints = typing.get_type_hints(cls)
        for name, value in params.items():
            if name not in known:
                near = _near(name, known)
                raise RefusedError(name, f"{cls.__name__} has no such parameter{near}", repr(value))
            params[name] = _typed(name, value, hints[name])
        for name, field in known.items():
            if name not in params and field.default is MISSING:
                raise RefusedError(name, f"{cls.__name__} needs this parameter", "nothing")
        return cls(**params)

    def __getitem__(self, name: object) -> type[Any]:
        if not isinstance(name, str):
            raise RefusedError("type", "the name of a loss must be a text", repr(name))
        found = self._by_name.get(name.removeprefix("mmdet."))
        if found is None:
            raise UnknownNameError(f"no loss named {name[:64]!r}{_near(name, self)}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._by_name))


def _near(name: str, known: Any) -> str:
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower()[:64], by_lower, n=3, cutoff=0.5)
    names = [by_lower[other] for other in near] or sorted(by_lower.values())
    return f"; {'near names' if near else 'there are'}: {', '.join(names)}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as `hint` wants it: an int may stand for a float, a list for a tuple."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        if choice is float and type(value) is int:
            return float(value)
        if typing.get_origin(choice) is tuple and isinstance(value, list | tuple):
            item = typing.get_args(choice)[0]
            return tuple(_typed(f"{name}[{i}]", one, item) for i, one in enumerate(value))
        if type(value) is choice:
            return value
    wanted = " or ".join(_WORDS.get(choice, str(choice)) for choice in choices)
    raise RefusedError(name, f"must be {wanted}", repr(value))


_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    type(None): "None",
    tuple[float, ...]: "a list of numbers",
}

LOSSES = Registry()
