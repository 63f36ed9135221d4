"""The cases of all losses, one module a family."""

from tests.losses.cases import cross_entropy, focal, regression

FAMILIES = [cross_entropy, focal, regression]

CASES = [case for family in FAMILIES for case in family.CASES]
