"""Policy gradients, PPO and GRPO, values and entropies: an element at a time, from the papers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal

T = 4
#: Tokens that count, of up to six sequences: an early end, all, a gap, one.
MASK = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
UNEVEN = "the mean is over the tokens that count"


def tokens(*names: str, mask: bool = False, apart: float = 0.5) -> Callable[[int], Inputs]:
    """Log-probabilities pred [N, 4], near them those named, and advantages."""

    def inputs(rows: int) -> Inputs:
        pred = -1 - normal(rows, T).abs()
        made = {"pred": pred, "target": normal(rows, T, seed=1)}
        for seed, name in enumerate(names, start=2):
            made[name] = pred + apart * normal(rows, T, seed=seed)
        return made | ({"mask": torch.tensor(MASK[:rows]).reshape(rows, T)} if mask else {})

    return inputs


def by_sequence(inputs: Callable[[int], Inputs]) -> Callable[[int], Inputs]:
    """The same with one advantage a sequence."""
    return lambda rows: inputs(rows) | {"target": normal(rows, seed=1)}


def clipped_away(rows: int) -> Inputs:
    """Ratios that are all clipped, some at the top and some at the bottom."""
    made = tokens("old_logp")(rows)
    jump = 1.0 + normal(rows, T, seed=4).abs()
    return made | {"old_logp": made["pred"] + jump * normal(rows, T, seed=5).sign()}


def each_token(formula: Callable[..., float]) -> Callable[..., Tensor]:
    """A formula of one token of each input, over all tokens; 0 outside the mask."""

    def reference(pred: Tensor, mask: Tensor | None = None, **others: Tensor) -> Tensor:
        out = torch.zeros(pred.shape, dtype=torch.float64)
        for i in range(pred.shape[0]):
            for t in range(pred.shape[1]):
                if mask is None or mask[i, t]:
                    own = {k: float(x[i, t] if x.dim() == 2 else x[i]) for k, x in others.items()}
                    out[i, t] = formula(float(pred[i, t]), **own)
        return out

    return reference


def clip(x: float, low: float, high: float) -> float:
    """The nearest number to x in low..high."""
    return min(max(x, low), high)


def kl_of(kind: str, logp: float, ref_logp: float) -> float:
    """k1, k2 or k3 of Schulman's note, of q = the policy and p = the reference."""
    r = math.exp(ref_logp) / math.exp(logp)
    return {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": (r - 1) - math.log(r)}[kind]


def ppo(
    low: float, high: float, dual: float | None = None, beta: float = 0.0, kind: str = "k3"
) -> Callable[..., float]:
    """Eq. 7 of arXiv:1707.06347 with two bounds, eq. 5 of arXiv:1912.09729, and a penalty."""

    def formula(pred: float, target: float, old_logp: float, ref_logp: float = 0.0) -> float:
        r = math.exp(pred) / math.exp(old_logp)
        objective = min(r * target, clip(r, 1 - low, 1 + high) * target)
        if dual is not None and target < 0:
            objective = max(objective, dual * target)
        return -objective + (beta * kl_of(kind, pred, ref_logp) if beta else 0)

    return formula


def gspo(low: float, high: float, beta: float) -> Callable[..., Tensor]:
    """Eq. 5 and 7 of arXiv:2507.18071, a sequence at a time, with GRPO's penalty a token."""

    def reference(
        pred: Tensor, target: Tensor, old_logp: Tensor, ref_logp: Tensor, mask: Tensor
    ) -> Tensor:
        out = torch.zeros(pred.shape, dtype=torch.float64)
        for i, keep in enumerate(mask.tolist()):
            taken = [t for t in range(T) if keep[t]]
            product = math.prod(math.exp(pred[i, t]) / math.exp(old_logp[i, t]) for t in taken)
            s, a = product ** (1 / len(taken)), float(target[i])
            for t in taken:
                kl = kl_of("k3", float(pred[i, t]), float(ref_logp[i, t]))
                out[i, t] = beta * kl - min(s * a, clip(s, 1 - low, 1 + high) * a)
        return out

    return reference


def cispo(low: float, high: float) -> Callable[..., float]:
    """Eq. 4 and 5 of arXiv:2506.13585."""

    def formula(pred: float, target: float, old_logp: float) -> float:
        return -clip(math.exp(pred) / math.exp(old_logp), 1 - low, 1 + high) * target * pred

    return formula


def value(epsilon: float) -> Callable[..., float]:
    """Half the worse of two squares."""

    def formula(pred: float, target: float, old_values: float) -> float:
        near = clip(pred, old_values - epsilon, old_values + epsilon)
        return max((pred - target) ** 2, (near - target) ** 2) / 2

    return formula


def logits(rows: int) -> Inputs:
    """Logits of 5 tokens, [N, 4, 5], and which of the 4 places count."""
    return {"pred": 2 * normal(rows, T, 5), "mask": torch.tensor(MASK[:rows]).reshape(rows, T)}


def entropy(pred: Tensor, mask: Tensor) -> Tensor:
    """Σ p log p, a place at a time."""
    out = torch.zeros(mask.shape, dtype=torch.float64)
    for i, t in mask.nonzero().tolist():
        total = sum(math.exp(x) for x in pred[i, t].tolist())
        shares = [math.exp(x) / total for x in pred[i, t].tolist()]
        out[i, t] = sum(p * math.log(p) for p in shares)
    return out


GRPO = {"type": "GRPOLoss"}
CISPO = {"type": "CISPOLoss", "clip_high": 0.3, "clip_low": 0.2}
REFERRED = ("old_logp", "ref_logp")
BOTH = {"clip_high": 0.28, "dual_clip": 1.5}

CASES = [
    Case({"type": "PolicyGradientLoss"}, tokens(), each_token(lambda pred, target: -target * pred)),
    Case(
        {"type": "PolicyGradientLoss", "normalization": "sequence"},
        by_sequence(tokens(mask=True)),
        each_token(lambda pred, target: -target * pred),
        reduces_otherwise=UNEVEN,
    ),
    Case(
        {"type": "ImportanceSamplingLoss"},
        tokens("old_logp", mask=True),
        each_token(lambda pred, target, old_logp: -math.exp(pred) / math.exp(old_logp) * target),
        wrt=("pred", "target", "old_logp"),
        reduces_otherwise=UNEVEN,
    ),
    # Where the ratio is clipped its gradient is 0, stopped or not; test_policy.py has the others.
    Case(CISPO, clipped_away, each_token(cispo(0.2, 0.3))),
    Case(CISPO, tokens("old_logp"), each_token(cispo(0.2, 0.3)), wrt=()),
    Case({"type": "PPOClipLoss"}, tokens("old_logp"), each_token(ppo(0.2, 0.2))),
    *(
        Case(
            {"type": "PPOClipLoss", "beta": 0.3, "kl_estimator": kind, **BOTH},
            tokens(*REFERRED, mask=True),
            each_token(ppo(0.2, 0.28, 1.5, 0.3, kind)),
            wrt=("pred", "ref_logp"),
            reduces_otherwise=UNEVEN,
        )
        for kind in ("k1", "k2", "k3")
    ),
    Case(
        GRPO,
        by_sequence(tokens(*REFERRED, mask=True)),
        each_token(ppo(0.2, 0.2, beta=0.04)),
        reduces_otherwise=UNEVEN,
    ),
    Case(
        GRPO | {"ratio": "sequence", "clip_low": 0.1, "clip_high": 0.15},
        by_sequence(tokens(*REFERRED, mask=True)),
        gspo(0.1, 0.15, 0.04),
        wrt=("pred", "target", "old_logp", "ref_logp"),
        reduces_otherwise=UNEVEN,
    ),
    Case(
        GRPO | {"beta": 0.0, "normalization": "constant", "constant": 12.0},
        tokens("old_logp"),
        each_token(ppo(0.2, 0.2)),
        reduces_otherwise="divides by the constant",
    ),
    Case({"type": "ValueClipLoss"}, tokens("old_values"), each_token(value(0.2))),
    Case({"type": "EntropyLoss"}, logits, entropy, reduces_otherwise=UNEVEN),
]
