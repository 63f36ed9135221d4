"""Write the page and its pictures, or check the page.

scripts/docs             all
scripts/docs FocalLoss   the page, and the pictures of these losses
scripts/docs --check     exit with 1, and say why, if the page is out of date
"""

import sys
from pathlib import Path

from scripts.losses_page.check import PAGE, PICTURES, complaints, missing


def main(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    said = complaints() if arguments == ["--check"] else missing()
    if not said and arguments != ["--check"]:
        write(arguments)
    sys.stderr.writelines(f"{line}\n" for line in said)
    return 1 if said else 0


def write(names: list[str]) -> None:
    """Write the page, and the pictures of these losses, or of all."""
    # matplotlib takes a second to import, which the check does not need.
    from scripts.losses_page.axes import PLOTS  # noqa: PLC0415
    from scripts.losses_page.curves import curves  # noqa: PLC0415
    from scripts.losses_page.page import page  # noqa: PLC0415
    from scripts.losses_page.plots import draw  # noqa: PLC0415

    PICTURES.mkdir(exist_ok=True)
    for name in names or PLOTS:
        draw(PICTURES / f"{name}.svg", PLOTS[name], curves(name, PLOTS[name]))
    if not names:
        _remove_stale({f"{name}.svg" for name in PLOTS})
    PAGE.write_text(page())


def _remove_stale(known: set[str]) -> None:
    for path in PICTURES.iterdir():
        if path.name not in known:
            Path(path).unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
