"""The same loss over Arrow Flight: columns in record batches, both ways over one exchange.

    python -m benchmarks.planes.flight FOLDER CASE [--keep]

It starts its server itself. Both sides fill one buffer that they keep for the
next call, so nothing but the batches on their way is new each time.
"""

import argparse
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import flight

from benchmarks import local
from benchmarks.planes.case import Array, read
from benchmarks.planes.orders import Answer, obey
from losswire import memory

#: Bytes of a record batch. Of 0.25, 1, 4 and 16 MiB the best here.
BATCH = 1 << 20

FLOATS = pa.schema([("values", pa.float32())])


def write(writer: Any, values: Array) -> None:
    """Send float32 values, a batch at a time; they are not copied here."""
    step = BATCH // values.itemsize
    for begin in range(0, values.size, step):
        part = values[begin : begin + step]
        column = pa.Array.from_buffers(pa.float32(), part.size, [None, pa.py_buffer(part)])
        writer.write_batch(pa.RecordBatch.from_arrays([column], schema=FLOATS))


def fill(reader: Any, into: Array) -> None:
    """Receive as many values as there is room for."""
    at = 0
    while at < into.size:
        values = reader.read_chunk().data.column(0).to_numpy()
        into[at : at + values.size] = values
        at += values.size


class Server(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """Answers an exchange; its descriptor has formula and shape, and the target's bytes."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._pred: Array = np.empty((0, 0), np.float32)

    def do_exchange(self, _: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """One call: receive all, compute, send all."""
        head, _, rest = descriptor.command.partition(b"\n")
        formula, rows, columns = head.decode().split()
        shape = int(rows), int(columns)
        if self._pred.shape != shape:
            self._pred = np.empty(shape, np.float32)
        fill(reader, self._pred.reshape(-1))
        target = torch.from_numpy(np.frombuffer(rest, np.int64).copy())
        value, grad = local.step(getattr(local, formula), torch.from_numpy(self._pred), target)
        writer.begin(FLOATS)
        write(writer, np.array([value], np.float32))
        write(writer, grad.numpy().reshape(-1))


def main() -> None:
    """Call when ordered to, or serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("case")
    parser.add_argument("--keep", action="store_true", help="keep freed memory, on both sides")
    parser.add_argument("--serve", action="store_true", help="be the server")
    args = parser.parse_args()
    if args.keep:
        memory.keep(arenas=1)
    if args.serve:
        server = Server()
        print(server.port, flush=True)
        server.serve()
        return
    again = [sys.executable, "-m", "benchmarks.planes.flight", *sys.argv[1:], "--serve"]
    with subprocess.Popen(again, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603
        try:
            assert running.stdout is not None  # noqa: S101  (for mypy)
            call(f"grpc://127.0.0.1:{int(running.stdout.readline())}", args.folder, args.case)
        finally:
            running.kill()


def call(target: str, folder: str, case: str) -> None:
    """Call when ordered to."""
    written = read(folder, case)
    client = flight.FlightClient(target)
    rows, columns = written.pred.shape
    head = f"{written.case.formula} {rows} {columns}\n".encode()
    descriptor = flight.FlightDescriptor.for_command(head + written.target.tobytes())
    values, loss = written.pred.reshape(-1), np.empty(1, np.float32)
    grad = np.empty_like(written.pred)

    def run() -> Answer:
        writer, reader = client.do_exchange(descriptor)
        with writer:
            writer.begin(FLOATS)
            write(writer, values)
            writer.done_writing()
            fill(reader, loss)
            fill(reader, grad.reshape(-1))
        return float(loss[0]), grad

    obey(run, written)


if __name__ == "__main__":
    main()
