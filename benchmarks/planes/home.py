"""Computed where it is needed: eager torch, no server.

python -m benchmarks.planes.home FOLDER CASE [--keep]
"""

import argparse

import torch

from benchmarks import local
from benchmarks.planes.case import Array, read
from benchmarks.planes.orders import Answer, obey
from losswire import memory


def main() -> None:
    """Compute when ordered to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("case")
    parser.add_argument("--keep", action="store_true", help="keep freed memory, as a server does")
    args = parser.parse_args()
    if args.keep:
        memory.keep()
    written = read(args.folder, args.case)
    pred, target = torch.from_numpy(written.pred), torch.from_numpy(written.target)
    formula = getattr(local, written.case.formula)

    def run() -> Answer:
        value, grad = local.step(formula, pred, target)
        found: Array = grad.numpy()
        return value, found

    obey(run, written)


if __name__ == "__main__":
    main()
