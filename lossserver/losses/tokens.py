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
from lossserver.losses.rows import Elementwise, RowwiseLoss, Sample
from lossserver.registry import RefusedError

Normalization = Literal["token", "sequence", "constant"]


@dataclass(frozen=True, kw_only=True)
class TokenLoss(Elementwise):
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
        if self.normalization == "sequence" and len(shape) != 2:
            rule = 'must hold sequences, [B, T], with normalization "sequence"'
            raise RefusedError("pred", rule, list(inputs["pred"].shape))
        if mask is None:
            return inputs, shape
        if tuple(mask.shape) != shape:
            raise RefusedError("mask", f"must be a number a token, {list(shape)}", list(mask.shape))
        other = mask[(mask != 0) & (mask != 1)]
        if len(other):
            raise RefusedError("mask", "must hold 0 and 1 only", float(other[0]))
        return inputs | {"mask": mask}, shape

    def formula(self, pred: Tensor, mask: Tensor | None = None, **others: Tensor) -> Tensor:
        inputs = {"pred": pred, **others}
        if "target" in inputs and inputs["target"].dim() < pred.dim():
            inputs["target"] = inputs["target"].unsqueeze(1)
        if mask is None:
            return self.of_tokens(**inputs, mask=None)
        outside = mask == 0
        blotted = {
            name: one.masked_fill(outside.view(*outside.shape, *[1] * (one.dim() - mask.dim())), 0)
            for name, one in inputs.items()
        }
        return self.of_tokens(**blotted, mask=mask).masked_fill(outside, 0)

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
        return max(math.prod(shape) if mask is None else int((mask != 0).sum()), 1)

    def _is_mean(self, call: Call) -> bool:
        return self.reduction_of(call) not in {"none", "sum"}


def tokens_of(pred: Tensor, mask: Tensor | None) -> Tensor:
    """How many tokens of each sequence count, int64 [B, 1]."""
    if mask is not None:
        return (mask != 0).sum(1, keepdim=True)
    return torch.full((pred.shape[0], 1), pred.shape[1], device=pred.device)
