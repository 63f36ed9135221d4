"""MMDetection 3.3.0's own heads, one step a line of stdin; run by an interpreter that has it.

    python -m venv up && up/bin/pip install torch numpy mmengine==0.10.7 mmcv-lite==2.1.0 &&
    up/bin/pip install --no-deps mmdet==3.3.0
    python -m benchmarks.bench_heads --upstream up/bin/python

mmcv-lite has no compiled ops, and the heads measured here need none: whatever
module is missing is stood in for by one that gives empty classes.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import time
import types
from pathlib import Path

import torch

HERE = Path(__file__).parent
ABSENT = (
    "cv2",
    "pycocotools",
    "scipy",
    "shapely",
    "sklearn",
    "terminaltables",
    "torchvision",
    "matplotlib",
)


class Empty(torch.nn.Module):
    """What stands in for a class: a layer of which the losses know nothing."""

    def __init__(self, *_, **__):
        super().__init__()


class StandIn(types.ModuleType):
    """A module every attribute of which is an empty class."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Empty,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for what is not installed."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        """A stand-in for the names and all that is below them."""
        known = any(name == one or name.startswith(f"{one}.") for one in self.names)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec):
        """An empty one."""
        return StandIn(spec.name)

    def exec_module(self, module):
        """Nothing to do."""


def bare(name, folder):
    """A package without its __init__, which imports every model there is."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def build(config):
    """The head of a config."""
    missing = [name for name in ABSENT if importlib.util.find_spec(name) is None]
    sys.meta_path.insert(0, Finder(["mmcv.ops", *missing]))
    import mmdet

    models = Path(mmdet.__file__).parent / "models"
    bare("mmdet.models", models)
    import mmdet.models.losses
    import mmdet.models.task_modules

    bare("mmdet.models.dense_heads", models / "dense_heads")
    for module in ("retina_head", "rpn_head", "corner_head"):
        importlib.import_module(f"mmdet.models.dense_heads.{module}")
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    return MODELS.build(ConfigDict(config))


def main(name):
    """Build the head, then time one step for each line that is read."""
    from mmengine.structures import InstanceData

    sys.path.insert(0, str(HERE))
    import heads

    head = build(heads.CONFIGS[name])
    found, labels = heads.boxes(name)
    truth = [InstanceData(bboxes=b, labels=k) for b, k in zip(found, labels, strict=True)]
    metas = [{key: tuple(side) for key, side in meta.items()} for meta in heads.METAS]
    maps = heads.predictions(name)
    print("ready", flush=True)
    for _ in sys.stdin:
        torch.manual_seed(0)
        leaves = {k: [one.clone().requires_grad_() for one in v] for k, v in maps.items()}
        start = time.perf_counter()
        loss = heads.total(
            head.loss_by_feat(**leaves, batch_gt_instances=truth, batch_img_metas=metas)
        )
        loss.backward()
        print(time.perf_counter() - start, float(loss.detach()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
