"""Trees of torch tensors, and states as flat names: what `lossclient.torch` walks over."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor


def map_tree(change: Callable[[Tensor], Any], tree: Any) -> Any:
    """The tree with each tensor changed and all else as it was; a tuple becomes a list."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: map_tree(change, item) for key, item in tree.items()}
    return [map_tree(change, item) for item in tree] if isinstance(tree, list | tuple) else tree


def items_of(tree: Any) -> Iterable[tuple[Any, Any]]:
    """Key and child of each branch; nothing of a leaf."""
    if isinstance(tree, Mapping):
        return tree.items()
    return enumerate(tree) if isinstance(tree, list | tuple) else ()


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """The tensors of the tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    for _, child in items_of(tree):
        yield from tensors_of(child)


def gradients_of(tree: Any, grads: Any) -> Iterator[Any]:
    """For each tensor of the tree what stands at its place in `grads`, or None."""
    if isinstance(tree, Tensor):
        yield grads
    for key, child in items_of(tree):
        yield from gradients_of(child, None if grads is None else grads[key])


def flat(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """A state's tensors by path: what part "cls" remembers as "n" is "cls/n"."""
    if isinstance(state, Tensor):
        return {prefix: state}
    return {
        path: value
        for name, inner in (state or {}).items()
        for path, value in flat(inner, f"{prefix}/{name}" if prefix else name).items()
    }


def nested(flat: Mapping[str, Tensor]) -> Any:
    """The state that `flat` made flat; None of nothing."""
    state: dict[str, Any] = {}
    for path, value in flat.items():
        *parts, name = path.split("/")
        inner = state
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return state or None
