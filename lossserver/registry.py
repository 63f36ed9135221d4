"""Names to losses: what `{"type": "FocalLoss", "gamma": 2}` means.

A name reaches here from a stranger's request, so it is looked up in a dict and
nowhere else: no imports, no fallback. A scope is part of a name: "torch.HuberLoss",
"CornerNet.AELoss". The scope "mmdet.", which MMDetection's own configs may write,
is the same as none.
"""

import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")

#: Keys that are no parameters: the name, and mmengine's own, how a config was inherited and where its
#: name is from.
MARKS = frozenset({"type", "_delete_", "_scope_"})

#: Names that an error lists where none is near.
MANY = 12


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
    """Nothing is registered under this name."""


class Registry:
    """A set of classes, by name.

    Parameters:
        kind: what they are, for errors: "loss".

    Example::

        @LOSSES.register
        @dataclass(frozen=True, kw_only=True)
        class L1Loss(RowwiseLoss): ...

        LOSSES.build({"type": "L1Loss"})
    """

    def __init__(self, kind: str = "loss") -> None:
        self.kind = kind
        self._by_name: dict[str, type[Any]] = {}
        self._aliases: dict[str, str] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Add `cls` under its own name. Raises ValueError if the name is taken."""
        return self.register_as(cls.__name__)(cls)

    def register_as(self, name: str) -> Callable[[type[T]], type[T]]:
        """Add a class under this name, which usually has a scope: "torch.HuberLoss"."""

        def register(cls: type[T]) -> type[T]:
            self._refuse_taken(name)
            self._by_name[name] = cls
            return cls

        return register

    def alias(self, other: str, name: str) -> None:
        """Let `other` be another name of the loss `name`, which may be registered later.

        Raises ValueError if `other` is taken.
        """
        self._refuse_taken(other)
        self._aliases[other] = name

    def _refuse_taken(self, name: str) -> None:
        if name in self._by_name or name in self._aliases:
            raise ValueError(f"a {self.kind} named {name!r} is already registered")

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names, and what they stand for."""
        return self._aliases

    def build(self, config: Mapping[str, Any]) -> Any:
        """Make the loss that `config` describes.

        Raises:
            UnknownNameError: no loss of that name.
            RefusedError: no `type`, a parameter the loss does not have or needs and
                is not given, one of the wrong type, or a value it refuses.
        """
        written = self.named(config)
        cls: Any = self._by_name[written]
        unread = MARKS | getattr(cls, "UNREAD", frozenset())
        params = {name: value for name, value in config.items() if name not in unread}
        known = {field.name: field for field in fields(cls)}
        hints = _hints(cls)
        for name, value in params.items():
            if name not in known:
                near = _near(name, known)
                raise RefusedError(name, f"{written} has no such parameter{near}", repr(value))
            params[name] = _typed(name, value, hints[name])
        for name, field in known.items():
            if name not in params and field.default is field.default_factory is MISSING:
                raise RefusedError(name, f"{written} needs this parameter", "nothing")
        return cls(**params)

    def part(self, config: Any, field: str) -> Any:
        """What the config in that field of another config makes.

        Raises:
            RefusedError: as `build`, an unknown name among it; its field is a path: "assigner.topk".
        """
        if not isinstance(config, Mapping):
            raise RefusedError(field, f"must be the config of a {self.kind}", repr(config))
        try:
            return self.build(config)
        except RefusedError as refusal:
            path = f"{field}.{refusal.field}"
            raise RefusedError(path, refusal.rule, refusal.given) from None
        except UnknownNameError as error:
            raise RefusedError(f"{field}.type", str(error), repr(config["type"])) from None

    def named(self, config: Mapping[str, Any]) -> str:
        """The name of the loss that a config means.

        Raises:
            UnknownNameError: no loss of that name.
            RefusedError: no `type`, or one that is not a text.
        """
        if "type" not in config:
            raise RefusedError(
                "type", f"a config must name its {self.kind}", f"keys {sorted(config)}"
            )
        name, scope = config["type"], config.get("_scope_")
        if isinstance(scope, str) and isinstance(name, str) and "." not in name:
            name = f"{scope}.{name}"
        return self.full_name(name)

    def __getitem__(self, name: object) -> type[Any]:
        return self._by_name[self.full_name(name)]

    def full_name(self, name: object) -> str:
        """The name under which a loss is registered, of any name it goes by.

        Raises:
            UnknownNameError: no loss of that name.
        """
        if not isinstance(name, str):
            raise RefusedError("type", f"the name of a {self.kind} must be a text", repr(name))
        plain = name.removeprefix("mmdet.")
        found = self._aliases.get(plain, plain)
        if found not in self._by_name:
            near = _near(name, {**self._by_name, **self._aliases})
            raise UnknownNameError(f"no {self.kind} named {name[:64]!r}{near}")
        return found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._by_name))


#: The types of a class's fields. To find them takes longer than all else of building a loss.
_hints = functools.cache(typing.get_type_hints)


def _near(name: str, known: Any) -> str:
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower()[:64], by_lower, n=3, cutoff=0.5)
    names = [by_lower[other] for other in near] or sorted(by_lower.values())
    listed = ", ".join(names[:MANY]) + (", …" if len(names) > MANY else "")
    return f"; {'near names' if near else 'there are'}: {listed}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as `hint` wants it: an int may stand for a float, a list for a tuple."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        if typing.get_origin(choice) is typing.Literal and isinstance(value, str):
            if value in typing.get_args(choice):
                return value
        elif typing.get_origin(choice) is dict and isinstance(value, dict):
            return value
        if choice is float and type(value) is int:
            return float(value)
        if typing.get_origin(choice) is tuple and isinstance(value, list | tuple):
            item = typing.get_args(choice)[0]
            return tuple(_typed(f"{name}[{i}]", one, item) for i, one in enumerate(value))
        if type(value) is choice:
            return value
    wanted = " or ".join(_worded(choice) for choice in choices)
    raise RefusedError(name, f"must be {wanted}", repr(value))


def _worded(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(hint))
    return "a map" if typing.get_origin(hint) is dict else _WORDS.get(hint, str(hint))


_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    type(None): "None",
    tuple[float, ...]: "a list of numbers",
    tuple[int, ...]: "a list of whole numbers",
    tuple[str, ...]: "a list of texts",
}

LOSSES = Registry()
