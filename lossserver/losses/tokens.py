"""Losses a token: which tokens count, and what a mean over them divides by.

A token outside the mask is blotted out before the formula sees it. So whatever
stands there, NaN included, its loss and its gradient are exactly 0.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lossserver.losses.loss import Call, floating, require
from lossserver.losses.rows import Elementwise, Exact, RowwiseLoss, Sample
from lossserver.losses.vectors import Fitted, LogitsLoss
from lossserver.registry import RefusedError
from lossserver.tree import map_tensors

Normalization = Literal["token", "sequence", "constant"]


@dataclass(frozen=True, kw_only=True)
class TokenLoss(Exact, Elementwise):
    """ℓ [B, T] of B sequences of T tokens, or [N] of tokens of no sequence.

    Parameters:
        normalization: what a mean is.
            "token": Σ ℓ over the tokens that count / their number in the call;
            "sequence": Σ over sequences of the mean of ℓ over its tokens / B;
            "constant": Σ ℓ / constant.
            avg_factor stands in for the number, B or the constant. The mean over no token is 0.
        constant: the divisor of "constant".
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"mask"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "mask")
    OUTSIDE: ClassVar[frozenset[str]] = RowwiseLoss.OUTSIDE | {"normalization", "constant"}

    normalization: Normalization = "token"
    constant: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalization == "constant":
            holds = self.constant is not None and 0 < self.constant < math.inf
            rule = 'must be a number above 0 with normalization "constant"'
            require(holds, "constant", rule, self.constant)
        elif self.constant is not None:
            raise RefusedError(
                "constant", 'goes with normalization "constant" only', self.normalization
            )

    @abstractmethod
    def of_tokens(self, *args: Any, **inputs: Any) -> Tensor:
        """ℓ, a number a token, of the fitted inputs by name, `mask` among them, None if not sent.

        Tokens outside the mask read 0 in every other input.
        """

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        pred, mask = inputs["pred"], inputs.pop("mask", None)
        require(pred.dim() in {1, 2}, "pred", "must be [B, T] or [N]", list(pred.shape))
        shape = tuple(pred.shape)
        for name, given in inputs.items():
            floating(given, name)
            if given.shape != shape and not (name == "target" and given.shape == shape[:-1]):
                rule = f"must be shaped like pred, {list(shape)}"
                if name == "target" and len(shape) == 2:
                    rule += f", or be [{shape[0]}], a number a sequence"
                raise RefusedError(name, rule, list(given.shape))
        return self.fit_tokens(inputs, mask, shape)

    def fit_tokens(
        self, inputs: dict[str, Any], mask: Tensor | None, shape: tuple[int, ...]
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        """The fitted inputs and the shape of ℓ, once the mask fits it."""
        # No token or sequence may come for free: [10⁷, 0] costs no byte.
        pred = inputs["pred"]
        require(
            not shape[0] or pred.numel() > 0, "pred", "must not be empty in a row", list(pred.shape)
        )
        if self.normalization == "sequence" and len(shape) != 2:
            rule = 'must hold sequences, [B, T], with normalization "sequence"'
            raise RefusedError("pred", rule, list(pred.shape))
        if mask is None:
            return inputs, shape
        return inputs | {"mask": fit_mask(mask, shape)}, shape

    def formula(self, pred: Tensor, mask: Tensor | None = None, **others: Tensor) -> Tensor:
        inputs = {"pred": pred, **others}
        if "target" in inputs and inputs["target"].dim() < pred.dim():
            inputs["target"] = inputs["target"].unsqueeze(1)
        if mask is None:
            return self.of_tokens(**inputs, mask=None)
        outside = mask == 0
        return self.of_tokens(**blotted(inputs, outside), mask=mask).masked_fill(outside, 0)

    def sample(self, call: Call) -> Sample:
        sample = super().sample(call)
        if self.normalization != "sequence" or not self._is_mean(call):
            return sample
        pred = sample.inputs["pred"]
        tokens = tokens_of(pred, sample.inputs.get("mask")).clamp(min=1)
        # Not pred's own dtype, since a half does not hold the reciprocal of a length.
        share = tokens.to(torch.promote_types(pred.dtype, torch.float32)).reciprocal()
        return replace(sample, weight=share)

    def own_divisor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        if self.constant is not None:
            return self.constant
        if self.normalization == "sequence":
            return max(shape[0], 1)
        mask = inputs.get("mask")
        return max(math.prod(shape), 1) if mask is None else tokens_within(mask)

    def _is_mean(self, call: Call) -> bool:
        return self.reduction_of(call) not in {"none", "sum"}


class MaskedLogitsLoss(LogitsLoss):
    """A loss of logits, whose mean is over the tokens within a mask, or else over all."""

    TAKES: ClassVar[frozenset[str]] = frozenset({"mask", "weight"})

    @abstractmethod
    def fit_tokens(self, *args: Any, **inputs: Any) -> Fitted:
        """As `fit`, of all inputs but the mask."""

    @abstractmethod
    def of_tokens(self, *args: Any, **inputs: Any) -> Tensor:
        """ℓ, a number a token, of the fitted inputs; tokens outside the mask read 0 in each."""

    def fit(self, *args: Any, mask: Tensor | None = None, **inputs: Any) -> Fitted:
        fitted, shape = self.fit_tokens(**inputs)
        return fitted if mask is None else fitted | {"mask": fit_mask(mask, shape)}, shape

    def formula(self, *args: Any, mask: Tensor | None = None, **inputs: Any) -> Tensor:
        if mask is None:
            return self.of_tokens(**inputs)
        outside = mask == 0
        return self.of_tokens(**blotted(inputs, outside)).masked_fill(outside, 0)

    def own_divisor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        mask = inputs.get("mask")
        return None if mask is None else tokens_within(mask)


def fit_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask, which must be 0 or 1 for each of the tokens, of that shape."""
    require(
        tuple(mask.shape) == shape,
        "mask",
        f"must be a number a token, {list(shape)}",
        list(mask.shape),
    )
    other = mask[(mask != 0) & (mask != 1)][:1].tolist()
    if other:
        raise RefusedError("mask", "must hold 0 and 1 only", other[0])
    return mask


def blotted(inputs: Mapping[str, Any], outside: Tensor) -> dict[str, Any]:
    """The inputs, trees of tensors [..., any], with 0 for tokens [...] that are outside."""

    def blot(one: Tensor) -> Tensor:
        return one.masked_fill(outside.view(*outside.shape, *[1] * (one.dim() - outside.dim())), 0)

    return {name: map_tensors(blot, tree) for name, tree in inputs.items()}


def tokens_within(mask: Tensor) -> int:
    """How many tokens count, and at least 1, for a mean to divide by."""
    return max(int((mask != 0).sum()), 1)


def tokens_of(pred: Tensor, mask: Tensor | None) -> Tensor:
    """How many tokens of each sequence count, int64 [B, 1]."""
    if mask is not None:
        return (mask != 0).sum(1, keepdim=True)
    return torch.full((pred.shape[0], 1), pred.shape[1], device=pred.device)
