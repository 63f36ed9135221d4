"""Contrastive losses of two views: each vector of one finds its own among those of the other."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import refuse_pairs, require
from lossserver.losses.vectors import (
    Fitted,
    VectorLoss,
    cosines,
    entropy,
    fit_number,
    fit_pairs,
    fit_vectors,
    refuse_temperature,
    unit,
    without_diagonal,
)
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class InfoNCELoss(VectorLoss):
    """InfoNCE, the contrastive cross entropy of CPC, MoCo and CLIP: a query finds its key.

    ℓ_i = -log exp(q_i·k_i / τ) / Σ_j exp(q_i·k_j / τ)          (eq. 4, over cosines)

    where j counts the key i, the other queries' keys, and the negatives sent.

    Parameters:
        temperature: τ > 0, at most 1e6. MoCo's and the start of CLIP's is 0.07.
        normalize: vectors are divided by max(‖x‖, 1e-12) first, so that q·k is
            a cosine. A vector of zeros stays one; its gradient is finite, but
            10¹² times that of its cosines.
        in_batch: other queries' keys are negatives. MoCo has it false: there
            only the negatives sent are.
        symmetric: ℓ_i is the mean of that of query i among the keys and that of
            key i among the queries, as in CLIP. Goes without negatives.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: queries, float [N, D].
        target: keys, float [N, D]; key i is that of query i.
        negatives: keys of no query, float [M, D]. Needed if in_batch is false.
        logit_scale: one float, [] or [1], in place of 1 / temperature: CLIP's
            learned scale after its exponential, whose gradient wrt may name.
        weight: [N].

    Returns:
        Unreduced float [N], in nats.

    Raises:
        ValueError: temperature out of range, symmetric with negatives or without
            in_batch, shapes that do not fit, or over 2²⁶ pairs.

    Source:
        van den Oord et al., Representation Learning with Contrastive
        Predictive Coding, 2018, arXiv:1807.03748, eq. 4. With in_batch false,
        He et al., Momentum Contrast, 2020, arXiv:1911.05722, eq. 1. Symmetric,
        Radford et al., CLIP, 2021, arXiv:2103.00020, fig. 3.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "negatives", "logit_scale"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "negatives", "logit_scale")

    temperature: float = 0.07
    normalize: bool = True
    in_batch: bool = True
    symmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_temperature("temperature", self.temperature)
        require(
            self.in_batch or not self.symmetric,
            "in_batch",
            "must be true where symmetric is",
            self.in_batch,
        )

    def fit(self, pred: Tensor, target: Tensor, **given: Tensor) -> Fitted:
        rows = fit_pairs(pred, target)
        others = 0
        if "negatives" in given:
            require(not self.symmetric, "negatives", "go without symmetric", "both")
            fit_vectors(given["negatives"], "negatives", pred.shape[1])
            others = len(given["negatives"])
        elif not self.in_batch:
            raise RefusedError("negatives", "must be sent if in_batch is false", "nothing")
        if "logit_scale" in given:
            fit_number(given["logit_scale"], "logit_scale")
        refuse_pairs(rows * (others + (rows if self.in_batch else 1)), "queries and keys")
        return {"pred": pred, "target": target, **given}, (rows,)

    def formula(
        self,
        pred: Tensor,
        target: Tensor,
        negatives: Tensor | None = None,
        logit_scale: Tensor | None = None,
    ) -> Tensor:
        scale = 1 / self.temperature if logit_scale is None else logit_scale.reshape(())
        queries, keys = (unit(pred), unit(target)) if self.normalize else (pred, target)
        parts = [queries @ keys.T if self.in_batch else (queries * keys).sum(1, keepdim=True)]
        if negatives is not None:
            parts.append(queries @ (unit(negatives) if self.normalize else negatives).T)
        scores = scale * torch.cat(parts, 1)
        own = torch.arange(len(pred), device=pred.device)
        loss = entropy(scores, own if self.in_batch else torch.zeros_like(own))
        return (loss + entropy(scores.T, own)) / 2 if self.symmetric else loss


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class NTXentLoss(VectorLoss):
    """Normalised temperature-scaled cross entropy of SimCLR: two views find each other in a batch.

    ℓ(a, b) = -log exp(cos(a, b) / τ) / Σ_{z ≠ a} exp(cos(a, z) / τ)    (eq. 1)
    ℓ_i = (ℓ(x_i, y_i) + ℓ(y_i, x_i)) / 2

    where z is any of the 2 N vectors of both views.

    Parameters:
        temperature: τ > 0, at most 1e6.
        reduction: "mean", "sum" or "none". The mean is SimCLR's over 2 N.
        loss_weight: factor of the result.

    Inputs:
        pred: first view x, float [N, D]. A vector of zeros has cosine 0 with
            all, and a gradient that is finite but large (norms are at least 1e-12).
        target: second view y, float [N, D].
        weight: [N].

    Returns:
        Unreduced float [N], in nats.

    Raises:
        ValueError: temperature out of range, target not shaped like pred, or over 2²⁶ pairs.

    Source:
        Chen et al., A Simple Framework for Contrastive Learning of Visual
        Representations, 2020, arXiv:2002.05709, eq. 1 and algorithm 1.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_temperature("temperature", self.temperature)

    def fit(self, pred: Tensor, target: Tensor) -> Fitted:
        rows = fit_pairs(pred, target)
        refuse_pairs(4 * rows * rows, "vectors of both views")
        return {"pred": pred, "target": target}, (rows,)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        both = torch.cat([pred, target])
        fellow = torch.arange(len(both), device=pred.device).roll(len(pred))
        scores = without_diagonal(cosines(both, both) / self.temperature)
        return entropy(scores, fellow).view(2, -1).mean(0)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class SigLIPLoss(VectorLoss):
    """Sigmoid loss of image-text pairs: each image with each text is a yes or a no of its own.

    ℓ_i = -Σ_j log σ(z_ij (t x_i·y_j + b)),  z_ij = 1 if i = j, else -1

    Parameters:
        logit_scale: t, where it is not sent. The paper starts at 10.
        logit_bias: b, where it is not sent. The paper starts at -10.
        normalize: vectors are divided by max(‖x‖, 1e-12) first, as in the
            paper. A vector of zeros stays one; its gradient is finite but large.
        reduction: "mean", "sum" or "none". The mean over N is the paper's.
        loss_weight: factor of the result.

    Inputs:
        pred: images x, float [N, D].
        target: texts y, float [N, D]; text i is that of image i.
        logit_scale: t, one float, [] or [1]: after the exponential where the
            model learns its logarithm. Its gradient comes where wrt names it.
        logit_bias: b, one float, [] or [1].
        weight: [N], of the images.

    Returns:
        Unreduced float [N], in nats: the sum over all texts.

    Raises:
        ValueError: shapes that do not fit, or over 2²⁶ pairs.

    Source:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023,
        arXiv:2303.15343, section 3.2, with b as in algorithm 1; in the equation
        printed there it has the other sign.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "logit_scale", "logit_bias"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "logit_scale", "logit_bias")

    logit_scale: float = 10.0
    logit_bias: float = -10.0
    normalize: bool = True

    def fit(self, pred: Tensor, target: Tensor, **numbers: Tensor) -> Fitted:
        rows = fit_pairs(pred, target)
        for name, number in numbers.items():
            fit_number(number, name)
        refuse_pairs(rows * rows, "images and texts")
        return {"pred": pred, "target": target, **numbers}, (rows,)

    def formula(
        self,
        pred: Tensor,
        target: Tensor,
        logit_scale: Tensor | None = None,
        logit_bias: Tensor | None = None,
    ) -> Tensor:
        t = self.logit_scale if logit_scale is None else logit_scale.reshape(())
        b = self.logit_bias if logit_bias is None else logit_bias.reshape(())
        logits = t * (cosines(pred, target) if self.normalize else pred @ target.T) + b
        z = 2 * torch.eye(len(pred), dtype=pred.dtype, device=pred.device) - 1
        return F.softplus(-z * logits, threshold=40).sum(1)
