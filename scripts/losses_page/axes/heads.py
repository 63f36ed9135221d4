"""Whole detection heads: maps in, a dict of losses out. Without pictures: a head has no natural axis."""

from scripts.losses_page.curves import Plot

TITLE = "Detection heads"

PLOTS: dict[str, Plot | None] = dict.fromkeys(
    (
        "AnchorHead",
        "RetinaHead",
        "RPNHead",
        "SSDHead",
        "ATSSHead",
        "PAAHead",
        "GFLHead",
        "VFNetHead",
        "FCOSHead",
        "FSAFHead",
        "FoveaHead",
        "YOLOV3Head",
        "YOLOXHead",
        "CornerHead",
        "CenterNetHead",
        "DETRHead",
        "Assign",
    )
)
