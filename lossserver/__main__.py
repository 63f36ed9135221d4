"""The command line: `lossserver COMMAND`, or `python -m lossserver COMMAND`."""

import signal
import sys

#: What the server needs and the client does not.
EXTRA = ("torch", "tyro", "grpc_health", "grpc_reflection")


def main() -> None:
    """Run a command and exit with its code."""
    # The first process of a container has no default action for SIGTERM: until the server has its
    # own, a stop during the seconds of importing would be lost, and the container killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        from lossserver.commands import run  # noqa: PLC0415  (imports take longest)

        sys.exit(run(sys.argv[1:]))
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        sys.exit(f"lossserver: {error.name} is missing; it comes with: pip install '.[server]'")


if __name__ == "__main__":
    main()
