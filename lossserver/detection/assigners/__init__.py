"""Assigners: which object each prior is for. Importing this package registers them all."""

from lossserver.detection.assigners import (
    atss,
    center_region,
    grid,
    hungarian,
    max_iou,
    point,
    sim_ota,
    task_aligned,
    uniform,
)

__all__ = [
    "atss",
    "center_region",
    "grid",
    "hungarian",
    "max_iou",
    "point",
    "sim_ota",
    "task_aligned",
    "uniform",
]
