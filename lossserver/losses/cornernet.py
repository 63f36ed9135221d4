"""CornerNet's own parts, each callable alone, and their sum over stacked outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.losses.corners import (
    check_alike,
    check_mask,
    check_offsets,
    check_tags,
    clamped_sigmoid,
    grouping_losses,
    heat_loss,
    offset_loss,
    tensors_of,
)
from lossserver.losses.loss import Call, Loss, floating, require, tensor_of
from lossserver.registry import LOSSES

#: Outputs of one stack, in the order CornerNet lists them.
STACK = ("tl_heat", "br_heat", "tl_tag", "br_tag", "tl_regr", "br_regr")

#: The targets of all stacks, in that order.
TARGETS = ("tl_heat", "br_heat", "mask", "tl_regr", "br_regr")


@LOSSES.register_as("CornerNet.neg_loss")
@dataclass(frozen=True, kw_only=True)
class NegLoss(Loss):
    """CornerNet's focal loss of heat maps, over all stacks.

    L = -1/P Σ  (1 - p)² log p              where the target y is 1
                (1 - y)⁴ p² log(1 - p)      where it is below 1          (eq. 1)

    P is the number of positives; without any, 1.

    Inputs:
        pred: probabilities, float [B, C, H, W]; or a list of them, one a stack,
            whose losses are summed.
        target: the heat map, float [B, C, H, W] in [0, 1], 1 at a corner.

    Returns:
        A scalar, in nats. A probability of exactly 0 or 1 on the wrong side
        makes it infinite; `CornerNet.AELoss` clamps to avoid that.

    Raises:
        ValueError: shapes differ, or an empty list.

    Source:
        Law & Deng, CornerNet, 2018, arXiv:1808.01244, eq. 1. Same values as
        `_neg_loss` of princeton-vl/CornerNet.
    """

    def check(self, call: Call) -> None:
        target = floating(tensor_of(call, "target"), "target")
        for name, pred in self._preds(call).items():
            check_alike(name, pred, target, "the target")

    def outputs(self, call: Call) -> dict[str, Tensor]:
        target = tensor_of(call, "target")
        losses = [heat_loss(pred, target) for pred in self._preds(call).values()]
        return {"loss": torch.stack(losses).sum()}

    def _preds(self, call: Call) -> dict[str, Tensor]:
        pred = call.inputs["pred"]
        return tensors_of("pred", [pred] if isinstance(pred, Tensor) else pred, None)


@LOSSES.register_as("CornerNet.ae_loss")
@dataclass(frozen=True, kw_only=True)
class GroupingLoss(Loss):
    """CornerNet's associative embedding loss of corner tags.

    pull = Σ_k [(a_k - m_k)² + (b_k - m_k)²] / (n + 1e-4);  m_k = (a_k + b_k) / 2   (eq. 4)
    push = Σ_jk [max(0, 1 - |m_j - m_k|) - 1/(n + 1e-4)] / (n(n - 1) + 1e-4)         (eq. 5)

    for each image with n objects, summed over images. As in the original code
    push runs over all ordered pairs, j = k included, and may be negative.

    Inputs:
        pred: tags a of top-left corners, float [B, K] or [B, K, 1].
        target: tags b of bottom-right corners, shaped like pred.
        mask: [B, K], bool or 0 and 1 of any integer type: which are objects.

    Returns:
        Two scalars, `pull` and `push`.

    Raises:
        ValueError: shapes differ, a mask of other values, or far too many pairs.

    Source:
        Law & Deng, CornerNet, 2018, arXiv:1808.01244, eq. 4 and 5. Same values
        as `_ae_loss` of princeton-vl/CornerNet with a uint8 mask; a batch of
        one, and a single object, on which its `squeeze` fails, are computed.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "mask"})
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"pull", "push"})

    def check(self, call: Call) -> None:
        mask = check_mask(tensor_of(call, "mask"), "mask")
        for name in ("pred", "target"):
            check_tags(name, floating(tensor_of(call, name), name), mask)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        mask = tensor_of(call, "mask") != 0
        first, second = (tensor_of(call, name).reshape(mask.shape) for name in ("pred", "target"))
        pull, push = grouping_losses(first, second, mask)
        return {"pull": pull, "push": push}


@LOSSES.register_as("CornerNet.regr_loss")
@dataclass(frozen=True, kw_only=True)
class OffsetLoss(Loss):
    """CornerNet's loss of corner offsets.

    L = Σ smooth_L1(pred - target) / (n + 1e-4), over the n objects          (eq. 3)

    Inputs:
        pred: offsets, float [B, K, 2], in cells.
        target: shaped like pred.
        mask: [B, K], bool or 0 and 1 of any integer type: which are objects.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes differ, or a mask of other values.

    Source:
        Law & Deng, CornerNet, 2018, arXiv:1808.01244, eq. 3. Same values as
        `_regr_loss` of princeton-vl/CornerNet.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "mask"})

    def check(self, call: Call) -> None:
        mask = check_mask(tensor_of(call, "mask"), "mask")
        for name in ("pred", "target"):
            check_offsets(name, tensor_of(call, name), mask)
        floating(tensor_of(call, "pred"), "pred")

    def outputs(self, call: Call) -> dict[str, Tensor]:
        pred, target = tensor_of(call, "pred"), tensor_of(call, "target")
        return {"loss": offset_loss(pred, target, tensor_of(call, "mask") != 0)}


@LOSSES.register_as("CornerNet.AELoss")
@dataclass(frozen=True, kw_only=True)
class AELoss(Loss):
    """CornerNet's whole loss over stacked outputs.

    L = 1/S Σ_stacks [focal(tl) + focal(br) + w_pull pull + w_push push
                      + w_regr (offset(tl) + offset(br))]                      (eq. 6)

    with the sigmoid of each heat map clamped to [1e-4, 1 - 1e-4].

    Parameters:
        pull_weight: w_pull. CornerNet trains with 0.1.
        push_weight: w_push. CornerNet trains with 0.1.
        regr_weight: w_regr.

    Inputs:
        pred: a list in strides of six, one stride a stack: logits of tl and br heat maps,
            float [B, C, H, W]; tags of tl and br, float [B, K, 1]; offsets of tl
            and br, float [B, K, 2].
        target: a list of five: heat maps of tl and br [B, C, H, W], the mask of
            objects [B, K] (bool, or 0 and 1 of any integer type), offsets of tl
            and br [B, K, 2].

    Returns:
        Float [1], as the original.

    Raises:
        ValueError: lists of other lengths, shapes that differ, or far too many pairs.

    Source:
        Law & Deng, CornerNet, 2018, arXiv:1808.01244, eq. 6. Same values as
        `AELoss` of princeton-vl/CornerNet with a uint8 mask; with a bool one,
        which newer torch turns into a push of 0 there, they stay the same here.
    """

    pull_weight: float = 1.0
    push_weight: float = 1.0
    regr_weight: float = 1.0

    def check(self, call: Call) -> None:
        target, stacks = self._targets(call), self._stacks(call)
        mask = check_mask(target["mask"], "target[2]", len(stacks))
        for name in ("tl_heat", "br_heat"):
            floating(target[name], f"target[{TARGETS.index(name)}]")
        for name in ("tl_regr", "br_regr"):
            check_offsets(f"target[{TARGETS.index(name)}]", target[name], mask)
        for i, stack in enumerate(stacks):
            for j, (name, pred) in enumerate(stack.items()):
                field = f"pred[{6 * i + j}]"
                floating(pred, field)
                if name.endswith("heat"):
                    check_alike(field, pred, target[name], f"target's {name}")
                elif name.endswith("tag"):
                    check_tags(field, pred, mask)
                else:
                    check_offsets(field, pred, mask)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        target, stacks = self._targets(call), self._stacks(call)
        mask = target["mask"] != 0
        losses = [self._of_stack(stack, target, mask) for stack in stacks]
        return {"loss": torch.stack(losses).sum().unsqueeze(0) / len(stacks)}

    def _of_stack(
        self, stack: Mapping[str, Tensor], target: Mapping[str, Tensor], mask: Tensor
    ) -> Tensor:
        heat = sum(
            heat_loss(clamped_sigmoid(stack[name]), target[name]) for name in ("tl_heat", "br_heat")
        )
        offset = sum(
            offset_loss(stack[name], target[name], mask) for name in ("tl_regr", "br_regr")
        )
        first, second = (stack[name].reshape(mask.shape) for name in ("tl_tag", "br_tag"))
        pull, push = grouping_losses(first, second, mask)
        return heat + self.pull_weight * pull + self.push_weight * push + self.regr_weight * offset

    def _targets(self, call: Call) -> dict[str, Tensor]:
        found = tensors_of("target", call.inputs["target"], len(TARGETS))
        return dict(zip(TARGETS, found.values(), strict=True))

    def _stacks(self, call: Call) -> list[dict[str, Tensor]]:
        preds = list(tensors_of("pred", call.inputs["pred"], None).values())
        strides = len(STACK)
        require(len(preds) % strides == 0, "pred", "must come in strides of six", len(preds))
        return [
            dict(zip(STACK, preds[i : i + strides], strict=True))
            for i in range(0, len(preds), strides)
        ]
