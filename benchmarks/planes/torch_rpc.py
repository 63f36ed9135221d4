"""The same loss by torch.distributed.rpc: torch's own way to call a function elsewhere.

    python -m benchmarks.planes.torch_rpc FOLDER CASE [--keep]

It starts its server itself. TensorPipe takes the fastest of its own ways between
the two processes.
"""

import argparse
import os
import socket
import subprocess
import sys

import torch
import torch.distributed.rpc as torch_rpc
from torch import Tensor

from benchmarks import local
from benchmarks.planes.case import Array, read
from benchmarks.planes.orders import Answer, obey
from losswire import memory


def step(formula: str, pred: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """What the server is asked for."""
    return local.step(getattr(local, formula), pred, target)


def join(rank: int, port: int) -> None:
    """Be the server (1) or its client (0)."""
    # gloo, which torch may start beside it, must find its own machine without asking for its name.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    os.environ.setdefault("TP_SOCKET_IFNAME", "lo")
    options = torch_rpc.TensorPipeRpcBackendOptions(
        init_method=f"tcp://127.0.0.1:{port}", rpc_timeout=120
    )
    name = "server" if rank else "client"
    torch_rpc.init_rpc(name, rank=rank, world_size=2, rpc_backend_options=options)


def main() -> None:
    """Call when ordered to, or serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("case")
    parser.add_argument("--keep", action="store_true", help="keep freed memory, on both sides")
    parser.add_argument("--serve", type=int, default=0, help="port: be the server")
    args = parser.parse_args()
    if args.keep:
        memory.keep(arenas=1)
    if args.serve:
        join(1, args.serve)
        torch_rpc.shutdown()
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    again = [
        sys.executable,
        "-W",
        "ignore::UserWarning",
        "-m",
        "benchmarks.planes.torch_rpc",
        *sys.argv[1:],
    ]
    with subprocess.Popen([*again, f"--serve={port}"]) as server:  # noqa: S603
        try:
            join(0, port)
            call(args.folder, args.case)
        finally:
            server.kill()


def call(folder: str, case: str) -> None:
    """Call when ordered to."""
    written = read(folder, case)
    pred, target = torch.from_numpy(written.pred), torch.from_numpy(written.target)

    def run() -> Answer:
        value, grad = torch_rpc.rpc_sync("server", step, (written.case.formula, pred, target))
        found: Array = grad.numpy()
        return value, found

    obey(run, written)


if __name__ == "__main__":
    main()
