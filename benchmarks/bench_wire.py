"""What fewer bytes save, and what they cost: bytes, milliseconds and error by type on the wire.

    python -m benchmarks.bench_wire [--rows 4096 --classes 1000] [--repeats 7]

First each type alone: nanoseconds an element to narrow and to widen, with NumPy, as the
client does. Then whole calls to a server in another process on this machine:
cross entropy of logits of standard deviation 3, and a focal loss of a dense detector,
nearly all of whose gradient is in a few elements. The error is that of the gradient,
in the norm, relative to the same call in float32. Rounds alternate between types.

Not measured here: a network, where milliseconds follow the bytes; a device, which
rounds a gradient to bfloat16 before it is copied to the host.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import lossclient
from benchmarks.harness import machine, measure
from lossclient.call import call_message
from lossclient.terms import Terms
from lossserver.bench.child import process
from losswire import narrow, tensor
from losswire.tensor import TensorBytes

Array = Any

TERMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "grad bfloat16": {"wire_dtype": {"grad": "bfloat16"}},
    "bfloat16": {"wire_dtype": "bfloat16"},
    "float16": {"wire_dtype": "float16"},
    "pred int8": {"wire_dtype": {"pred": "int8"}},
    "grad int8": {"wire_dtype": {"grad": "int8"}},
    "int8": {"wire_dtype": "int8"},
    "grad top 1 %": {"grad_keep": 0.01},
    "bfloat16, 1 %": {"wire_dtype": "bfloat16", "grad_keep": 0.01},
}


def nanoseconds(work: Callable[[], object], elements: int) -> float:
    """Median time an element."""
    return statistics.median(measure(work, repeats=5, warmup=1)) / elements * 1e9


def alone(elements: int) -> None:
    """Print what it takes to narrow and to widen."""
    random = np.random.default_rng(0)
    floats = tensor.pack(random.standard_normal((elements // 4096, 4096), np.float32))
    labels = tensor.pack(random.integers(0, 80, elements))
    mask = tensor.pack(random.random(elements) < 0.5)
    ways: dict[str, Callable[[], TensorBytes]] = {
        name: lambda name=name: narrow.rounded(floats, name) for name in narrow.WIRES
    }
    ways |= {
        "int64 as uint8": lambda: narrow.exact(labels),
        "bool as bits": lambda: narrow.exact(mask),
        "float32 top 1 %": lambda: narrow.sparse(floats, 0.01),
    }
    print(f"# ns an element, {elements} elements, one thread\n# {machine()}")
    for name, way in ways.items():
        written = way()
        there = nanoseconds(way, elements)
        back = nanoseconds(lambda written=written: tensor.unpack(written), elements)
        size = sum(map(len, tensor.buffers(written))) / elements
        print(f"{name:16s} narrow {there:6.2f}   widen {back:6.2f}   {size:6.3f} bytes an element")


def logits(rows: int, classes: int) -> tuple[Array, Array]:
    """Of a head that has begun to tell classes apart."""
    random = np.random.default_rng(0)
    return random.standard_normal((rows, classes), np.float32) * 3, random.integers(
        0, classes, rows
    )


def detections(anchors: int, classes: int = 80, objects: int = 60) -> tuple[Array, Array]:
    """Logits and labels of a dense detector: all say about 1 %, and few anchors are an object."""
    random = np.random.default_rng(0)
    pred = random.normal(-4.6, 1, (anchors, classes)).astype(np.float32)
    labels = np.full(anchors, classes)
    labels[random.choice(anchors, objects, replace=False)] = random.integers(0, classes, objects)
    return pred, labels


def calls(client: lossclient.Client, config: dict[str, Any], given: Any, repeats: int) -> None:
    """Print bytes, time and error of a call, by its terms."""
    pred, target = given
    seconds: dict[str, list[float]] = {name: [] for name in TERMS}
    found: dict[str, lossclient.Result] = {}
    for round_ in range(repeats + 1):
        for name, terms in TERMS.items():
            started = time.perf_counter()
            found[name] = client.compute(config, pred, target, **terms)
            if round_:
                seconds[name].append(time.perf_counter() - started)
    whole = found["float32"]
    print(f"# {config['type']} {list(pred.shape)}: MB up and down, ms, error\n# {machine()}")
    for name, terms in TERMS.items():
        parts = call_message(config, pred, target, **terms)
        result = found[name]
        error = np.linalg.norm(result.grad - whole.grad) / np.linalg.norm(whole.grad)
        kept = f"   energy kept {result.kept['pred']:.3%}" if result.kept else ""
        print(
            f"{name:14s} up {parts.size / 1e6:8.3f}   down {down(pred, terms) / 1e6:8.3f}"
            f"   p50 {statistics.median(seconds[name]) * 1e3:8.2f} ms"
            f"   gradient off {error:8.3%}"
            f"   loss off {abs(result.loss / whole.loss - 1):9.4%}{kept}"
        )


def down(pred: Array, terms: dict[str, Any]) -> int:
    """Bytes of a gradient in those terms."""
    wire = Terms(**terms).wires.get("grad", "float32")
    size = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[wire]
    scales = 4 * len(pred) if wire in ("float16", "int8") else 0
    if keep := terms.get("grad_keep"):
        return int(np.ceil(keep * pred.size)) * (8 + size) + scales
    return pred.size * size + scales


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--anchors", type=int, default=8192)
    parser.add_argument("--elements", type=int, default=1 << 22)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()

    alone(args.elements)
    with (
        process("lossserver", "serve", "--port=0", "--device=cpu", "--compile=off") as target,
        lossclient.connect(target) as client,
    ):
        entropy = {"type": "CrossEntropyLoss"}
        calls(client, entropy, logits(args.rows, args.classes), args.repeats)
        calls(client, {"type": "FocalLoss"}, detections(args.anchors), args.repeats)


if __name__ == "__main__":
    main()
