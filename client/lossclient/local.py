"""A call computed in this process, where what computes it is installed.

The client knows no formulas. A package that has them says so by an entry point, as
lossserver does; it takes the parts of a call and gives those of the answer.
"""

from collections.abc import Callable
from importlib.metadata import entry_points

from losswire.frame import Parts

#: The group of entry points; each is a function of a call's parts and the seconds it may take.
GROUP = "lossclient.local"

Local = Callable[[Parts, float | None], Parts]


def find() -> Local:
    """What computes calls in this process.

    Raises:
        ModuleNotFoundError: nothing does, or it lacks a package.
    """
    why = f"no entry point {GROUP}"
    for entry in entry_points(group=GROUP):
        try:
            found: Local = entry.load()
        except ModuleNotFoundError as error:
            why = f"no module {error.name}"
        else:
            return found
    raise ModuleNotFoundError(
        "on_unavailable='local' computes with the server's formulas, which come with: "
        f"pip install 'lossserver[server]' ({why})"
    )
