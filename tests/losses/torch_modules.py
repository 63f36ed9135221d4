"""The losses of torch.nn: their parameters in all combinations, inputs of all forms, and torch's own."""

import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from tests.losses.calls import answer, assert_all_close
from tests.losses.case import Inputs, normal, uniform, whole
from tests.losses.cases import (
    torch_binary,
    torch_classes,
    torch_differences,
    torch_likelihoods,
    torch_margins,
    torch_pairs,
    torch_sequences,
)

WEIGHTS = [0.5, 2.0, 3.0]
IGNORED = torch_classes.IGNORED

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "euclidean": nn.PairwiseDistance(),
    "manhattan": nn.PairwiseDistance(p=1),
    "chebyshev": nn.PairwiseDistance(p=float("inf")),
    "cosine": lambda a, b: 1 - nn.CosineSimilarity(dim=1)(a, b),
    "squared_euclidean": lambda a, b: nn.MSELoss(reduction="none")(a, b).sum(1),
}


def lone(make):
    """The inputs' first row, without a dimension for rows."""
    return lambda rows: {name: value[0] for name, value in make(rows).items()}


def with_ignored(make):
    """The inputs with every third label ignored."""

    def inputs(rows):
        made = make(rows)
        made["target"][::3] = IGNORED
        return made

    return inputs


def soft_maps(rows: int) -> Inputs:
    """Logits and class probabilities [N, 3, 2, 2]."""
    return {"pred": normal(rows, 3, 2, 2), "target": normal(rows, 3, 2, 2, seed=1).softmax(1)}


def stretched(rows: int) -> Inputs:
    """Means [N, 3, 4], targets [N, 1, 4] and variances [N, 3, 1]."""
    return {
        "pred": normal(rows, 3, 4),
        "target": normal(rows, 1, 4, seed=1),
        "var": uniform(rows, 3, 1, seed=2),
    }


def one_sign(rows: int) -> Inputs:
    """Scores to rank, all in the same direction."""
    return torch_pairs.ranked(rows) | {"y": torch.tensor([[-1]])}


def some_labels(rows: int) -> Inputs:
    """Scores of 4 classes, and from none to all of the labels."""
    inputs = torch_margins.label_sets(rows)
    ends = whole(rows, 1, high=4, seed=5)
    labels = normal(rows, 4, seed=6).argsort(1)
    return inputs | {"target": labels.masked_fill(torch.arange(4) >= ends, -1)}


def concatenated(rows: int) -> Inputs:
    """Sequences whose targets are in one row."""
    inputs = torch_sequences.sequences(rows)
    pairs = zip(inputs["target"], inputs["target_lengths"], strict=True)
    return inputs | {"target": torch.cat([labels[:count] for labels, count in pairs])}


def too_long(rows: int) -> Inputs:
    """Sequences, of which the first two have no room for their targets."""
    inputs = torch_sequences.sequences(rows)
    inputs["input_lengths"][:2] = torch.tensor([1, 0])
    inputs["target_lengths"][:2] = 2
    inputs["target_lengths"][2] = 0
    return inputs


def other_blank(rows: int) -> Inputs:
    """Sequences whose blank is 1."""
    inputs = torch_sequences.sequences(rows)
    return inputs | {"target": 2 * inputs["target"] - 2}


def halfway(make):
    """The inputs with float targets, between whole numbers."""

    def inputs(rows):
        made = make(rows)
        return made | {"target": made["target"].double() + 0.5}

    return inputs


def grid(**values):
    """Every combination of these values of parameters."""
    return [dict(zip(values, one, strict=True)) for one in product(*values.values())]


BOTH = (False, True)
CLASS_PARAMS = grid(weight=[None, WEIGHTS], ignore_index=[-100, IGNORED])
SOFT_PARAMS = grid(weight=[None, WEIGHTS], label_smoothing=[0.0, 0.3, 1.0])

#: Loss, combinations of its parameters, inputs, names of the module's arguments.
TABLE: list[tuple[str, list[dict[str, Any]], Any, str]] = [
    ("L1Loss", [{}], torch_differences.pairs, "pred target"),
    ("MSELoss", [{}], torch_differences.pairs, "pred target"),
    ("SmoothL1Loss", grid(beta=[0.0, 0.3, 1.0]), torch_differences.pairs, "pred target"),
    ("HuberLoss", grid(delta=[0.3, 1.0, 4.0]), torch_differences.pairs, "pred target"),
    ("HuberLoss", [{}], lone(lone(torch_differences.pairs)), "pred target"),
    ("PoissonNLLLoss", grid(full=BOTH), halfway(torch_likelihoods.counts), "pred target"),
    (
        "PoissonNLLLoss",
        grid(log_input=[False], full=BOTH, eps=[1e-8, 0.5]),
        halfway(torch_likelihoods.rates),
        "pred target",
    ),
    *(
        ("GaussianNLLLoss", grid(full=BOTH, eps=[1e-6, 0.7]), make, "pred target var")
        for make in (torch_likelihoods.gaussian, torch_likelihoods.one_variance, stretched)
    ),
    ("KLDivLoss", [{}], torch_likelihoods.distributions, "pred target"),
    ("KLDivLoss", [{"log_target": True}], torch_likelihoods.logs, "pred target"),
    ("BCELoss", [{}], torch_binary.probabilities, "pred target"),
    (
        "BCEWithLogitsLoss",
        grid(pos_weight=[None, [2.5], WEIGHTS]),
        torch_binary.logits,
        "pred target",
    ),
    ("BCEWithLogitsLoss", [{"pos_weight": WEIGHTS}], lone(torch_binary.logits), "pred target"),
    ("MultiLabelSoftMarginLoss", grid(weight=[None, WEIGHTS]), torch_binary.logits, "pred target"),
    ("MultiLabelSoftMarginLoss", [{}], lone(torch_binary.logits), "pred target"),
    ("MultiLabelSoftMarginLoss", [{}], soft_maps, "pred target"),
    ("SoftMarginLoss", [{}], torch_binary.signs, "pred target"),
    *(
        (name, [one | more for one in CLASS_PARAMS], make, "pred target")
        for name, more in (
            ("CrossEntropyLoss", {}),
            ("CrossEntropyLoss", {"label_smoothing": 0.3}),
            ("NLLLoss", {}),
        )
        for make in (torch_classes.labels, torch_classes.maps, lone(torch_classes.labels))
    ),
    *(
        (
            "CrossEntropyLoss",
            [one | {"ignore_index": IGNORED} for one in SOFT_PARAMS],
            make,
            "pred target",
        )
        for make in (
            with_ignored(torch_classes.labels),
            with_ignored(torch_classes.maps),
            torch_classes.soft,
            soft_maps,
            lone(torch_classes.soft),
        )
    ),
    ("HingeEmbeddingLoss", grid(margin=[-0.5, 1.0]), torch_margins.distances, "pred target"),
    (
        "MultiMarginLoss",
        grid(p=[1, 2], margin=[0.2, 1.0], weight=[None, torch_margins.WEIGHTS]),
        torch_margins.scores,
        "pred target",
    ),
    ("MultiMarginLoss", [{}], lone(torch_margins.scores), "pred target"),
    ("MultiLabelMarginLoss", [{}], torch_margins.label_sets, "pred target"),
    ("MultiLabelMarginLoss", [{}], some_labels, "pred target"),
    ("MultiLabelMarginLoss", [{}], lone(torch_margins.label_sets), "pred target"),
    ("MarginRankingLoss", grid(margin=[0.0, 0.8]), torch_pairs.ranked, "pred target y"),
    ("MarginRankingLoss", [{}], one_sign, "pred target y"),
    ("CosineEmbeddingLoss", grid(margin=[0.0, 0.4]), torch_pairs.vectors, "pred target y"),
    ("CosineEmbeddingLoss", [{}], lone(torch_pairs.vectors), "pred target y"),
    *(
        (
            "TripletMarginLoss",
            grid(margin=[0.2, 1.0], p=[1.0, 2.0, 3.5], eps=[1e-6, 0.1], swap=BOTH),
            make,
            "pred target negative",
        )
        for make in (torch_pairs.triplets, lone(torch_pairs.triplets))
    ),
    (
        "TripletMarginWithDistanceLoss",
        grid(distance_function=list(DISTANCES), margin=[0.2, 1.0], swap=BOTH),
        torch_pairs.triplets,
        "pred target negative",
    ),
    *(
        ("CTCLoss", grid(zero_infinity=BOTH), make, "pred target input_lengths target_lengths")
        for make in (torch_sequences.sequences, concatenated)
    ),
    ("CTCLoss", [{"zero_infinity": True}], too_long, "pred target input_lengths target_lengths"),
    ("CTCLoss", [{"blank": 1}], other_blank, "pred target input_lengths target_lengths"),
]


def module_of(config):
    """torch's own, of a config of ours."""
    params = {
        name: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
        for name, value in config.items()
        if name != "type"
    }
    if "distance_function" in params:
        params["distance_function"] = DISTANCES[params["distance_function"]]
    return getattr(nn, config["type"].removeprefix("torch."))(**params)


def assert_as_torch(config, inputs, names, module, **options):
    """Our values, and gradients of all floating inputs, are the module's."""
    wrt = [name for name in names if inputs[name].is_floating_point()]
    leaves = {name: inputs[name].clone().requires_grad_() for name in wrt}
    with warnings.catch_warnings(action="ignore"):
        theirs = module(*[leaves.get(name, inputs[name]) for name in names])
    upstream = uniform(*theirs.shape, 1, seed=4).reshape(theirs.shape)
    grads = torch.autograd.grad(theirs, list(leaves.values()), upstream, allow_unused=True)
    ours = answer(config, inputs, wrt=wrt, grad_output=upstream, **options)

    assert_all_close(ours.loss, theirs.detach(), rtol=1e-12, atol=1e-13)
    for name, grad in zip(wrt, grads, strict=True):
        if grad is not None:
            assert_all_close(ours.grads[name], grad, rtol=1e-11, atol=1e-13)
