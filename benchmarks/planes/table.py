"""Figures beside what is aimed at."""

from dataclasses import dataclass
from statistics import median

from benchmarks.harness import quantile
from benchmarks.planes.orders import Peer


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What one peer is to reach, measured against another.

    Attributes:
        peer: whose time is looked at.
        against: whose time it is divided by.
        most: what that must not exceed.
        orelse: another peer that may reach it instead.
    """

    peer: str
    against: str
    most: float
    orelse: str = ""


def show(title: str, peers: dict[str, Peer], aims: list[Aim], home: str) -> int:
    """Print a table of medians and what is aimed at; how many aims were missed."""
    print(f"\n# {title}")
    base = median(peers[home].seconds)
    for name, peer in peers.items():
        found = median(peer.seconds)
        print(
            f"{name:20s} p50 {found * 1e3:9.3f} ms   best {min(peer.seconds) * 1e3:9.3f}   "
            f"p95 {quantile(peer.seconds, 0.95) * 1e3:9.3f}   {1 / found:9.1f} calls/s   "
            f"{found / base:6.3f} x {home}   faults {median(peer.faults):7.0f}   "
            f"n={len(peer.seconds)}"
        )
    missed = 0
    for aim in aims:
        if aim.against not in peers:
            print(f"  {aim.against} was not measured")
            continue
        ratio, who = min(
            (median(peers[who].seconds) / median(peers[aim.against].seconds), who)
            for who in (aim.peer, aim.orelse)
            if who
        )
        missed += ratio > aim.most
        verdict = "MISSED" if ratio > aim.most else "met"
        print(f"  {verdict:6s} {who} / {aim.against} = {ratio:.3f}, at most {aim.most}")
    return missed
