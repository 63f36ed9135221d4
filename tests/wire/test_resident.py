"""losswire.resident: a handle, and what stands for it in a message."""

import copy
import hashlib
import pickle

import numpy as np

from lossclient.call import encode_call
from losswire import frame, tensor, value
from losswire.resident import Handle, Reference, digest_of, sorted_out
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader

TEN = np.arange(10, dtype=np.float32)


def handle(array):
    return Handle(array.dtype.name, array.shape, array.tobytes())


def trees(parts, contents):
    """The inputs of a call, read by an end that has the contents of its elsewhere."""
    header = pb.ComputeHeader.FromString(parts.header)
    reader = Reader([*parts.payloads, *contents], tensor.unpack)
    read = {name: reader.read(given, name) for name, given in header.inputs.items()}
    if header.HasField("grad_output"):
        read["grad_output"] = reader.read(header.grad_output, "grad_output")
    if header.HasField("state"):
        read["state"] = reader.read(header.state, "state")
    reader.finish()
    return read


def test_a_digest_is_blake2b_of_the_bytes():
    """So any other client computes the same."""
    content = TEN.tobytes()

    assert digest_of(memoryview(content)) == hashlib.blake2b(content, digest_size=32).digest()
    assert handle(TEN).digest == digest_of(content)


def test_a_handle_travels_as_its_digest():
    """It comes after all that is in the message, wherever in a call it stands."""
    one, two, three = (handle(TEN + n) for n in range(3))
    parts = encode_call(
        {"type": "L1Loss"},
        {"pred": {"a": [one, TEN + 10]}, "target": TEN + 11, "more": [two, {"b": TEN + 12}]},
        grad_output={"loss": three},
        state={"n": TEN + 13},
    )

    assert [pb.Elsewhere.FromString(place).digest for place in parts.elsewhere] == [
        given.digest for given in (one, two, three)
    ]
    read = trees(parts, [place.content for place in parts.elsewhere])
    np.testing.assert_equal(
        read,
        {
            "pred": {"a": [TEN, TEN + 10]},
            "target": TEN + 11,
            "more": [TEN + 1, {"b": TEN + 12}],
            "grad_output": {"loss": TEN + 2},
            "state": {"n": TEN + 13},
        },
    )


def test_scales_and_indices_are_renumbered_with_their_tensor():
    """Whatever else of a tensor is a payload keeps its place."""
    header = pb.ComputeHeader()
    narrowed = header.inputs["pred"].tensor_value
    narrowed.payload, narrowed.scales, narrowed.indices = 1, 2, 3
    header.inputs["target"].tensor_value.payload = 0
    resident = Reference.to(b"r", digest_of(b"r"))
    parts = sorted_out(header, [resident, b"a", b"b", b"c"])
    read = pb.ComputeHeader.FromString(parts.header).inputs

    assert (parts.payloads, parts.elsewhere) == ([b"a", b"b", b"c"], [resident])
    pred = read["pred"].tensor_value
    assert (pred.payload, pred.scales, pred.indices) == (0, 1, 2)
    assert read["target"].tensor_value.payload == 3


def test_a_call_without_handles_is_as_it_was():
    """Nothing is renumbered."""
    payloads = []
    header = pb.ComputeHeader()
    header.inputs["pred"].CopyFrom(value.pack(TEN, payloads))
    parts = sorted_out(header, payloads)

    assert (parts.payloads, list(parts.elsewhere)) == (payloads, [])


def test_a_put_has_the_outline_of_a_call():
    """What is written by hand is what protobuf reads."""
    content = TEN.tobytes()
    asked, put = frame.write(digest_of(content), []), frame.write(digest_of(content), [content])

    assert pb.PutTensorRequest.FromString(asked) == pb.PutTensorRequest(digest=digest_of(content))
    assert pb.PutTensorRequest.FromString(put).content == content
    empty = pb.PutTensorRequest.FromString(frame.write(digest_of(b""), [b""]))
    assert empty.HasField("content")


def test_a_handle_survives_copies():
    """Pickled it arrives whole; a deep copy of a model shares it."""
    given = handle(TEN.reshape(2, 5))
    back = pickle.loads(pickle.dumps(given))  # noqa: S301

    assert copy.deepcopy(given) is copy.copy(given) is given
    assert (back.dtype, back.shape, back.digest) == ("float32", (2, 5), given.digest)
    assert back.reference.content == given.reference.content
    assert (back.nbytes, repr(back)[:24]) == (40, "Handle(float32 [2, 5], " + given.digest.hex()[0])
