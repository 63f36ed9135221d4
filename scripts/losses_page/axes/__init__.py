"""How each loss is drawn. A module is a family of the page: its title, its first line, its losses.

A loss stands on the page where it stands in PLOTS of its module.
"""

from scripts.losses_page.axes import (
    boxes,
    classes,
    dense,
    differences,
    points,
    policies,
    preferences,
    regions,
    sets,
    students,
    sums,
    tokens,
    torch_pairs,
    torch_values,
    vectors,
)
from scripts.losses_page.curves import Plot

FAMILIES = [
    boxes,
    dense,
    sets,
    regions,
    points,
    classes,
    differences,
    vectors,
    students,
    tokens,
    policies,
    preferences,
    sums,
    torch_values,
    torch_pairs,
]

PLOTS: dict[str, Plot] = {name: plot for family in FAMILIES for name, plot in family.PLOTS.items()}
