"""The losses, one module a family. Importing this package registers them all."""

from lossserver.losses import cross_entropy, focal, regression

__all__ = ["cross_entropy", "focal", "regression"]
