"""What scripts/docker-test asks of a container, from outside: one loss, or calls across a stop.

    python tests/docker/drill.py loss HOST:PORT
    python tests/docker/drill.py drain HOST:PORT CALLS

`drain` expects a server that takes CALLS calls at once and lets each wait a
few seconds for company. It says "in flight" when that many are in; whoever reads it
then stops the server, which answers them, since no company will come.
"""

import sys
from concurrent.futures import FIRST_COMPLETED, wait

import numpy as np
import torch
import torch.nn.functional as F

import lossclient
from lossclient import DrainingError, OverloadedError, Result, UnreachableError

#: No second attempt: what becomes of the first is what is asked here.
ONCE = lossclient.Retry(attempts=1)


def main(what: str, target: str, calls: str = "8") -> None:
    """Run one drill."""
    with lossclient.connect(target, retry=ONCE) as client:
        loss(client) if what == "loss" else drain(client, int(calls))


def loss(client: lossclient.Client) -> None:
    """A FocalLoss and its gradient are those of plain torch."""
    pred, target = inputs(0, rows=200)
    mine = torch.from_numpy(pred).requires_grad_()
    # Lin et al., arXiv:1708.02002, eq. 5; the last class index is background, a row of zeros.
    positive = F.one_hot(torch.from_numpy(target), pred.shape[1] + 1)[:, :-1].float()
    p_t = torch.where(positive == 1, mine.sigmoid(), 1 - mine.sigmoid())
    alpha_t = 0.25 * positive + 0.75 * (1 - positive)
    expected = (-alpha_t * (1 - p_t) ** 2 * p_t.log()).mean()
    expected.backward()

    same(client.compute({"type": "FocalLoss"}, pred, target), expected, mine)


def drain(client: lossclient.Client, calls: int) -> None:
    """Calls in flight at a stop all get their own results; nobody else gets in."""
    # Small and large in turn: the server computes them in different places.
    sent = [inputs(seed, rows=4000 if seed % 2 else 50) for seed in range(calls + 1)]
    cfg = {"type": "CrossEntropyLoss"}
    futures = [client.submit(cfg, pred, target % 80) for pred, target in sent]
    done, _ = wait(futures, timeout=30, return_when=FIRST_COMPLETED)
    refused = futures.index(done.pop())
    first = futures[refused].exception()
    assert isinstance(first, OverloadedError), f"one call must be refused first, not {first!r}"
    print("in flight", flush=True)  # noqa: T201

    for (pred, target), future in zip(sent, futures, strict=True):
        if future is not futures[refused]:
            mine = torch.from_numpy(pred).requires_grad_()
            expected = F.cross_entropy(mine, torch.from_numpy(target % 80))
            expected.backward()
            same(future.result(timeout=45), expected, mine)
    try:
        client.compute(cfg, *inputs(0, rows=1), timeout=5)
    except (DrainingError, UnreachableError):
        return
    raise AssertionError("a call got in after the drain began")


def inputs(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [rows, 80] and class indices in 0..80."""
    random = np.random.default_rng(seed)
    pred = random.normal(size=(rows, 80)).astype(np.float32)
    return pred, random.integers(0, 81, size=rows)


def same(result: Result, expected: torch.Tensor, pred: torch.Tensor) -> None:
    """The result is the expected loss and the gradient that `pred` has got."""
    np.testing.assert_allclose(result.loss, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(result.grad, pred.grad, rtol=1e-4, atol=1e-9)


if __name__ == "__main__":
    main(*sys.argv[1:])
