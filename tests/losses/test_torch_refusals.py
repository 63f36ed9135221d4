"""What torch's losses refuse, and what they say."""

import pytest
import torch

import losswire.errors
from tests.losses.calls import job_of
from tests.losses.cases import torch_projections, torch_sequences

PAIR = {"pred": torch.rand(2, 3), "target": torch.rand(2, 3)}
LABELS = {"pred": torch.rand(2, 3), "target": torch.tensor([0, 1])}
CTC = torch_sequences.sequences(2)
LINEAR = {
    "type": "torch.LinearCrossEntropyLoss",
    "in_features": 3,
    "num_classes": 4,
}
ADAPTIVE = {
    "type": "torch.AdaptiveLogSoftmaxWithLoss",
    "in_features": 3,
    "n_classes": 7,
    "cutoffs": [2, 4],
    "head_bias": True,
}

REFUSED = [
    ("SmoothL1Loss", {"beta": -1.0}, PAIR, "beta: must be at least 0"),
    ("HuberLoss", {"delta": 0.0}, PAIR, "delta: must be above 0"),
    ("HuberLoss", {"reduction": "batchmean"}, PAIR, "reduction: must be one of none, mean, sum"),
    ("L1Loss", {}, PAIR | {"target": torch.rand(2, 1)}, "target: must be shaped like pred"),
    ("MSELoss", {}, PAIR | {"target": torch.ones(2, 3).bool()}, "target: must hold numbers"),
    ("KLDivLoss", {"reduction": "average"}, PAIR, "must be one of none, mean, sum, batchmean"),
    ("GaussianNLLLoss", {"eps": 0.0}, PAIR | {"var": PAIR["pred"]}, "eps: must be above 0"),
    ("GaussianNLLLoss", {}, PAIR | {"var": -PAIR["pred"]}, "var: must be at least 0"),
    ("GaussianNLLLoss", {}, PAIR | {"var": torch.rand(3)}, "var: must be shaped like pred"),
    ("GaussianNLLLoss", {}, PAIR | {"var": PAIR["pred"], "target": torch.rand(3)}, "target: must"),
    ("BCELoss", {}, PAIR | {"pred": 1 + PAIR["pred"]}, r"pred: must be in \[0, 1\]"),
    ("BCELoss", {}, PAIR | {"target": -PAIR["pred"]}, r"target: must be in \[0, 1\]"),
    ("BCEWithLogitsLoss", {"pos_weight": [1, 2]}, PAIR, "pos_weight: must have one number a class"),
    ("BCEWithLogitsLoss", {"pos_weight": []}, PAIR, "pos_weight: must have one number a class"),
    ("BCEWithLogitsLoss", {}, PAIR | {"pos_weight": torch.rand(4, 2, 3)}, "pos_weight: must broad"),
    ("MultiLabelSoftMarginLoss", {"weight": [1]}, PAIR, "config.weight: must have one number"),
    ("CrossEntropyLoss", {"weight": [1]}, LABELS, "config.weight: must have one number a class"),
    ("CrossEntropyLoss", {"label_smoothing": 1.5}, LABELS, r"label_smoothing: must be in \[0, 1\]"),
    ("CrossEntropyLoss", {"ignore_index": 1}, PAIR, "ignore_index: goes with class indices"),
    ("CrossEntropyLoss", {}, LABELS | {"target": torch.tensor([0, 3])}, "index must be in 0..2"),
    ("CrossEntropyLoss", {}, LABELS | {"target": torch.tensor([0])}, r"target: must be class ind"),
    ("NLLLoss", {}, PAIR, r"target: must be class indices \[2\] for classes \[2, 3\]"),
    ("NLLLoss", {}, LABELS | {"target": torch.tensor([0, -1])}, "index must be in 0..2"),
    ("MultiMarginLoss", {"p": 3}, LABELS, "p: must be 1 or 2"),
    ("MultiMarginLoss", {}, LABELS | {"target": torch.tensor([0, 3])}, "index must be in 0..2"),
    ("MultiMarginLoss", {}, PAIR, r"target: must be class indices \[2\]"),
    ("MultiLabelMarginLoss", {}, PAIR, "target: class indices must be of an integer type"),
    ("MultiLabelMarginLoss", {}, PAIR | {"target": torch.full((2, 3), -2)}, "or -1 after the last"),
    ("MarginRankingLoss", {}, PAIR | {"y": torch.ones(3)}, "y: must be shaped like pred"),
    ("CosineEmbeddingLoss", {}, PAIR | {"y": torch.ones(1)}, "y: must be one number a row"),
    ("TripletMarginLoss", {"margin": 0.0}, PAIR | {"negative": PAIR["pred"]}, "margin: must be"),
    ("TripletMarginLoss", {}, PAIR | {"negative": torch.rand(2)}, "negative: must be shaped like"),
    (
        "TripletMarginWithDistanceLoss",
        {"distance_function": "os.system"},
        PAIR,
        "distance_function: must be one of euclidean, ",
    ),
    ("CTCLoss", {"blank": 3}, CTC, r"blank: must be in 0\.\.2"),
    ("CTCLoss", {}, CTC | {"input_lengths": torch.tensor([4, 5])}, r"input_lengths: must be in 0"),
    ("CTCLoss", {}, CTC | {"input_lengths": torch.tensor([4])}, r"input_lengths: must be \[2\]"),
    ("CTCLoss", {}, CTC | {"input_lengths": torch.rand(2)}, "input_lengths: must be of an integer"),
    ("CTCLoss", {}, CTC | {"target_lengths": torch.tensor([3, 1])}, "S at least 3"),
    ("CTCLoss", {}, CTC | {"target": torch.ones(9).long()}, "the sum of target_lengths"),
    (
        "CTCLoss",
        {},
        CTC | {"target": torch.zeros(2, 2).long(), "target_lengths": torch.ones(2).long()},
        "not the blank, 0",
    ),
    ("CTCLoss", {}, CTC | {"weight": torch.ones(5)}, "weight: must broadcast"),
    ("LinearCrossEntropyLoss", LINEAR, LABELS | {"linear_weight": torch.rand(3, 3)}, r"\[4, 3\]"),
    (
        "LinearCrossEntropyLoss",
        LINEAR | {"bias": True},
        LABELS | {"linear_weight": torch.rand(4, 3)},
        "linear_bias: must be sent",
    ),
    ("AdaptiveLogSoftmaxWithLoss", ADAPTIVE | {"cutoffs": [4, 2]}, {}, "cutoffs: must be whole"),
    ("AdaptiveLogSoftmaxWithLoss", ADAPTIVE | {"cutoffs": [2, 7]}, {}, "cutoffs: must be whole"),
    (
        "AdaptiveLogSoftmaxWithLoss",
        ADAPTIVE,
        torch_projections.clusters(2) | {"tail": [torch.rand(2)]},
        "tail: must be a list of 2 lists of two tensors",
    ),
]


@pytest.mark.parametrize(("name", "params", "inputs", "message"), REFUSED)
def test_refusals(name, params, inputs, message):
    """What torch would crash on, or silently make something else of, is refused by name."""
    with pytest.raises(losswire.errors.RequestError, match=message):
        job_of({"type": f"torch.{name}", **params}, {"pred": torch.rand(1)} | inputs)


def test_more_logits_than_were_paid_for():
    """A layer of one feature cannot ask for rows times classes of memory."""
    rows, classes = 1 << 14, 1 << 13
    config = {"type": "torch.LinearCrossEntropyLoss", "in_features": 1, "num_classes": classes}
    inputs = {
        "pred": torch.zeros(rows, 1),
        "target": torch.zeros(rows).long(),
        "linear_weight": torch.zeros(classes, 1),
    }
    with pytest.raises(losswire.errors.RequestError, match="pairs of rows and classes"):
        job_of(config, inputs)
