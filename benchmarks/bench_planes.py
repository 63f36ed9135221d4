"""Every way to a loss, beside computing it at home and beside what others offer.

    make bench-planes
    python -m benchmarks.bench_planes --rounds 9 [--serve='--compile off'] [--only large]

Each peer is a process, its server another, all on this machine; rounds
alternate, and each answer is checked against local torch. Arrow Flight needs
pyarrow: pip install '.[bench]'.

    home            eager torch in a plain process; kept: one that keeps its memory, too
    shared, ...     ours, by plane; the client keeps its memory unless it says plain
    over TCP        ours, of a server that shares no memory, as none does on another machine
    echo            a bare grpc.aio server that sends the message back: no loss at all
    torch rpc       torch.distributed.rpc
    Flight          Arrow Flight; kept: with the same allocator settings as ours on both sides

Not measured here: networks, devices other than the CPU.
"""

import argparse
import contextlib
import importlib.util
import shlex
import tempfile

import torch

from benchmarks import local
from benchmarks.harness import machine
from benchmarks.planes import case
from benchmarks.planes.orders import Peer, peer
from benchmarks.planes.peak import peak
from benchmarks.planes.table import Aim, show
from lossserver.bench.child import process

#: Bytes above idle that a server may reach in a call of 2 GiB.
MOST_PEAK = 600 << 20

#: Runs of an order, so many that one takes some tenths of a second; of a peer of many calls one.
RUNS = {"large": 1, "middle": 20, "small": 200}
MANY = ("echo, 64 in flight", "64 in flight", "compute_many of 64")

AIMS = {
    "large": [
        Aim(peer="shared", against="home", most=0.4),
        Aim(peer="pieces", against="home", most=0.9),
        Aim(peer="pieces", against="torch rpc", most=0.5),
        Aim(peer="pieces", against="echo", most=0.3),
        Aim(peer="pieces", against="Flight kept", most=1.0),
    ],
    "middle": [
        Aim(peer="shared", against="home", most=0.5),
        Aim(peer="inline", against="home", most=1.0, orelse="over TCP"),
    ],
    "small": [
        Aim(peer="one caller", against="echo, one caller", most=1.0),
        Aim(peer="64 in flight", against="echo, 64 in flight", most=1 / 2),
        Aim(peer="compute_many of 64", against="echo, 64 in flight", most=1 / 4),
    ],
}


def ours(case_: str, target: str, far: str) -> dict[str, tuple[str, ...]]:
    """Our clients of one call at a time, by plane; of a server here and one as if elsewhere."""
    client = ("ours", case_, target)
    planes = {plane: (*client, "--plane", plane, "--keep") for plane in ("shared", "pieces")}
    return {
        **planes,
        "inline": (*client, "--plane", "inline", "--keep"),
        "over TCP": ("ours", case_, far, "--keep"),
        "auto": (*client, "--keep"),
        "auto, plain": client,
    }


def others(name: str, echo: str) -> dict[str, tuple[str, ...]]:
    """Everybody else, of one call at a time."""
    peers: dict[str, tuple[str, ...]] = {
        "home": ("home", name),
        "home kept": ("home", name, "--keep"),
        "echo": ("echoed", name, echo),
        "torch rpc": ("torch_rpc", name),
        "torch rpc kept": ("torch_rpc", name, "--keep"),
    }
    if importlib.util.find_spec("pyarrow") is not None:
        peers |= {"Flight": ("flight", name), "Flight kept": ("flight", name, "--keep")}
    return peers


def small(target: str, echo: str) -> dict[str, tuple[str, ...]]:
    """Who makes many small calls, and one caller alone."""
    client = ("ours", "small", target)
    return {
        "echo, one caller": ("echoed", "small", echo),
        "one caller": client,
        "home": ("home", "small"),
        "echo, 64 in flight": ("echoed", "small", echo, "--way", "submit"),
        "64 in flight": (*client, "--way", "submit"),
        "compute_many of 64": (*client, "--way", "compute_many"),
    }


def leave(folder: str, name: str) -> None:
    """Leave a case's inputs, and the answer of local torch, for the peers."""
    one = case.CASES[name]
    pred, target = (torch.from_numpy(array) for array in one.drawn())
    loss, grad = local.step(getattr(local, one.formula), pred, target)
    case.write(folder, name, loss, grad.numpy())


def measured(
    folder: str,
    commands: dict[str, tuple[str, ...]],
    runs: dict[str, int],
    args: argparse.Namespace,
) -> dict[str, Peer]:
    """The peers, after all rounds."""
    with contextlib.ExitStack() as around:
        peers = {
            name: around.enter_context(peer(module, folder, *rest))
            for name, (module, *rest) in commands.items()
        }
        for name, one in peers.items():
            if not one.warm(args.patience):
                print(f"# {name}: no kernel after {args.patience} s")
        for _ in range(args.rounds):
            for name, one in peers.items():
                one.order(runs[name])
    return peers


def main() -> None:
    """Measure, print, and exit with 1 if an aim was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", default="", help="flags of `lossserver serve`")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for kernels")
    parser.add_argument("--only", choices=[*case.CASES, "peak"], help="one part of it")
    args = parser.parse_args()
    serve = ("lossserver", "serve", "--port", "0", "--device", "cpu", *shlex.split(args.serve))
    print(f"# {machine()}")
    missed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        process("benchmarks.echo") as echo,
        process(*serve) as target,
        process(*serve, "--max-shared-bytes", "0") as far,
    ):
        for name in case.CASES if args.only is None else {args.only} & case.CASES.keys():
            leave(folder, name)
            if name == "small":
                commands = small(target, echo)
            else:
                commands = others(name, echo) | ours(name, target, far)
            runs = {one: 1 if one in MANY else RUNS[name] for one in commands}
            peers = measured(folder, commands, runs, args)
            title = f"{case.CASES[name].config['type']} {list(case.CASES[name].shape)} float32"
            missed += show(title, peers, AIMS[name], "home")
    if args.only in (None, "peak"):
        reached = peak(serve)
        missed += reached > MOST_PEAK
        print(
            f"\n# CrossEntropyLoss of 2 GiB in pieces\n"
            f"server, above idle: {reached >> 20} MiB, at most {MOST_PEAK >> 20}"
        )
    raise SystemExit(missed > 0)


if __name__ == "__main__":
    main()
