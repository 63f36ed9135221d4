"""Trees of tensors: nested dicts and lists, as inputs and gradients come."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def map_tensors(change: Callable[[Tensor], Any], tree: Any) -> Any:
    """The tree with each tensor changed and all else as it was."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(change, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_tensors(change, value) for value in tree]
    return tree


def zip_tensors(join: Callable[[Tensor, Tensor], Any], left: Any, right: Any) -> Any:
    """One tree of two of the same structure: its tensors joined, None for all else."""
    if isinstance(left, Tensor):
        return join(left, right)
    if isinstance(left, dict):
        return {key: zip_tensors(join, value, right[key]) for key, value in left.items()}
    if isinstance(left, list):
        return [zip_tensors(join, a, b) for a, b in zip(left, right, strict=True)]
    return None


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    found: list[Tensor] = []
    for value in (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    ):
        if isinstance(value, Tensor):
            found.append(value)
        else:
            found += tensors(value)
    return found


def precision(tree: Any) -> torch.dtype:
    """What to compute a tree in: the widest of its floats, and no less than float32."""
    widest = torch.float32
    for tensor in tensors(tree):
        if tensor.is_floating_point():
            widest = torch.promote_types(widest, tensor.dtype)
    return widest
