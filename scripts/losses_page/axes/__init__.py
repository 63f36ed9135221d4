"""How each loss is drawn. A module is a family of the page: its title, its first line, its losses.

A loss stands on the page where it stands in PLOTS of its module.
"""

from scripts.losses_page.axes import (
    boxes,
    classes,
    dense,
    differences,
    heads,
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
    heads,
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

#: Of the losses that have a picture.
PLOTS: dict[str, Plot] = {
    name: plot for family in FAMILIES for name, plot in family.PLOTS.items() if plot is not None
}
