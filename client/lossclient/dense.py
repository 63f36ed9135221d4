"""A head's assignment as dense targets: what `client.assign` makes of the few indices that travel."""

from typing import Any

import numpy as np


def dense(told: dict[str, Any]) -> dict[str, Any]:
    """Targets of every anchor, an array a level, of what the server said of some.

    Boxes are bytes and so are the indices of positives; the dense targets of a
    RetinaNet's two images are 17 MB, nearly all of them 0.
    """
    images = [_of_image(told, i) for i in range(len(told["pos_inds"]))]
    ends = np.cumsum(told["counts"])[:-1]
    names = ("labels", "label_weights", "bbox_targets", "bbox_weights")
    levels = {
        name: np.split(np.stack([one[name] for one in images]), ends, axis=1) for name in names
    }
    kept = {name: told[name] for name in ("pos_inds", "pos_gt_inds", "avg_factor", "anchors")}
    return levels | kept | {"neg_inds": [one["neg_inds"] for one in images]}


def _of_image(told: dict[str, Any], i: int) -> dict[str, Any]:
    """The dense targets of all levels of one image, and the indices of its negatives."""
    total, positive = int(np.sum(told["counts"])), told["pos_inds"][i]
    labels = np.full(total, told["background"], np.int64)
    labels[positive] = told["pos_labels"][i]
    listed = len(told["neg_inds"][i]) > 0
    taking = np.full(total, not listed)
    taking[told["neg_inds"][i] if listed else told["off_inds"][i]] = listed
    taking[positive] = False
    negative = taking.nonzero()[0]
    weights = taking.astype(np.float32)
    weights[positive] = told["pos_weight"]
    targets = np.zeros((total, 4), np.float32)
    targets[positive] = told["pos_bbox_targets"][i]
    having = np.zeros((total, 4), np.float32)
    having[positive] = 1
    return {
        "labels": labels,
        "label_weights": weights,
        "bbox_targets": targets,
        "bbox_weights": having,
        "neg_inds": negative,
    }
