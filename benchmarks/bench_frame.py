"""What `losswire.frame` saves: a message with one tensor, by hand and by plain protobuf.

    python -m benchmarks.bench_frame

Writes a ComputeRequest from an array, reads it back to an array, and does the
same through the protobuf library's own message. Not measured here: gRPC, which
moves the same bytes either way.
"""

import argparse

import numpy as np

from benchmarks.harness import measure, report
from losswire import frame, tensor, value
from losswire.v1 import loss_pb2 as pb

SIZES = {"20 KiB": 5 << 10, "2.5 MiB": 640 << 10, "128 MiB": 32 << 20}


def by_hand(array: np.ndarray) -> np.ndarray:
    """One copy, into the message; the array read is a view of it."""
    payloads: list[bytes | memoryview] = []
    header = pb.ComputeHeader(inputs={"pred": value.pack(array, payloads)})
    message = frame.write(header.SerializeToString(), payloads)
    serialised, views, _ = frame.read(message)
    described = pb.ComputeHeader.FromString(serialised).inputs["pred"].tensor_value
    return tensor.unpack(tensor.read(described, views, "pred"))


def by_protobuf(array: np.ndarray) -> np.ndarray:
    """Copies when the field is set, serialised, parsed and read."""
    described = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=array.shape)
    request = pb.ComputeRequest(payloads=[array.tobytes()])
    request.header.inputs["pred"].tensor_value.CopyFrom(described)
    read = pb.ComputeRequest.FromString(request.SerializeToString())
    return tensor.unpack(
        tensor.read(read.header.inputs["pred"].tensor_value, read.payloads, "pred")
    )


def main() -> None:
    """Print both for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    for name, elements in SIZES.items():
        array = np.ones(elements, np.float32)
        report(
            f"frame: {name} of float32, written and read",
            "protobuf",
            protobuf=measure(lambda array=array: by_protobuf(array), repeats=args.repeats),
            frame=measure(lambda array=array: by_hand(array), repeats=args.repeats),
        )


if __name__ == "__main__":
    main()
