"""lossserver.resident: PutTensor as any caller may send it, and calls that name what is there."""

import contextlib
import threading

import grpc
import numpy as np
import pytest

from lossclient.call import encode_call
from losswire import frame
from losswire.resident import Handle, digest_of
from losswire.status import DETAILS, from_status
from losswire.v1 import loss_pb2 as pb
from tests.conftest import ServerProcess

L1 = {"type": "L1Loss"}
ONE = np.ones((2, 3), np.float32)
ZERO = Handle("float32", (2, 3), bytes(24))


class Connection:
    """A connection of its own, and so a tenant of its own."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])

    def ask(self, method, message):
        """The reply; a refusal is raised as what it says."""
        try:
            return self.channel.unary_unary(f"/losswire.v1.LossService/{method}")(
                message, timeout=60
            )
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata())[DETAILS]
            raise from_status(error.code().name, error.details(), details) from None

    def put(self, digest, *content):
        """Whether it is there."""
        return pb.PutTensorResponse.FromString(
            self.ask("PutTensor", frame.write(digest, content))
        ).held

    def compute(self, parts):
        """The reply's header."""
        return pb.ComputeResponse.FromString(self.ask("Compute", frame.write(*parts))).header


@pytest.fixture
def connect(server):
    with contextlib.ExitStack() as around:

        def open_one(target=server.target):
            made = Connection(target)
            around.enter_context(made.channel)
            return made

        yield open_one


@pytest.fixture
def asked(connect):
    return connect()


def call(**inputs):
    return encode_call(L1, {"pred": ONE, "target": ZERO, **inputs})


def named(*digests):
    """A call whose target is the first of these, and others that no tensor names."""
    parts = call()
    places = [pb.Elsewhere(digest=one).SerializeToString() for one in digests]
    return parts._replace(elsewhere=places)


def content(number, size=1 << 16):
    return number.to_bytes(4, "big") * (size // 4)


def test_what_was_put_is_there(asked):
    """A question finds nothing, a put leaves it, a question finds it; a call may name it."""
    digest = digest_of(bytes(24))
    before, put = asked.put(digest), asked.put(digest, bytes(24))

    assert (before, put, asked.put(digest)) == (False, True, True)
    assert asked.compute(call()).losses["loss"].tensor_value.shape == []


def test_the_reply_says_how_long_it_stays(asked):
    """The seconds of --resident-ttl, also where nothing is held."""
    reply = asked.ask("PutTensor", frame.write(digest_of(b"nothing"), []))

    assert pb.PutTensorResponse.FromString(reply) == pb.PutTensorResponse(ttl=600)


def test_an_empty_tensor_may_stay(asked):
    """It has a digest, too, and no bytes."""
    assert not asked.put(digest_of(b""))
    assert asked.put(digest_of(b""), b"")
    assert asked.put(digest_of(b""))


def test_another_connection_does_not_find_it(connect):
    """Neither a question nor a call tells that it is there."""
    owner, other = connect(), connect()
    owner.put(ZERO.digest, bytes(24))
    owner.compute(call())

    assert not other.put(ZERO.digest)
    with pytest.raises(Exception, match="must name a tensor") as there:
        other.compute(call())
    with pytest.raises(Exception, match="must name a tensor") as absent:
        other.compute(named(digest_of(b"nobody's")))
    assert there.value.rule == absent.value.rule


def test_what_is_not_there_is_said(asked):
    """Class, field and digest; what to do stands in the rule."""
    with pytest.raises(Exception, match="put it, or send it in the call") as refused:
        asked.compute(call())

    assert type(refused.value).__name__ == "NotResidentError"
    assert (refused.value.field, refused.value.given) == ("elsewhere.digest", ZERO.digest.hex())


def test_a_liar_poisons_nothing(asked):
    """Content of another digest is refused, and is at neither address afterwards."""
    with pytest.raises(Exception, match=r"^digest: must be the BLAKE2b-256 of the content") as lie:
        asked.put(ZERO.digest, b"\x01" * 24)

    assert type(lie.value).__name__ == "MessageError"
    assert not asked.put(ZERO.digest)
    assert not asked.put(digest_of(b"\x01" * 24))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "digest: must be BLAKE2b-256, 32 bytes; given 0 bytes"),
        (frame.write(b"short", []), "given 5 bytes"),
        (frame.write(bytes(33), [b"x"]), "given 33 bytes"),
        (frame.write(digest_of(b"x"), [b"x", b"x"]), "content: must be there once; given 2 times"),
        (b"\xff\xff", "must be"),
        (frame.write(bytes(1 << 21), []), "at most 1048576 bytes"),
    ],
)
def test_a_put_that_makes_no_sense_is_refused(asked, message, said):
    """The server says what is wrong with it, and goes on."""
    with pytest.raises(Exception, match=said) as refused:
        asked.ask("PutTensor", message)

    assert type(refused.value).__name__ == "MessageError"
    assert asked.put(digest_of(b"x"), b"x")


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([b"\xff\xff"], "elsewhere: must be"),
        ([b""], "elsewhere: must say where"),
        ([pb.Elsewhere(span=pb.Span(bytes=24)).SerializeToString()], "of the call's own stream"),
        ([pb.Elsewhere(digest=b"").SerializeToString()], "must name a tensor"),
        ([pb.Elsewhere(digest=bytes(5000)).SerializeToString()], "must name a tensor"),
        (
            [pb.Elsewhere(digest=ZERO.digest).SerializeToString()] * 2,
            "every payload must be named by a tensor",
        ),
        (
            [pb.Elsewhere(digest=digest_of(b"four")).SerializeToString()],
            r"target: payload of float32 \[2, 3\] must be 24 bytes; given 4 bytes",
        ),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(asked, places, said):
    """Whatever stands in elsewhere, the call gets a clear error, and the next one an answer."""
    asked.put(ZERO.digest, bytes(24))
    asked.put(digest_of(b"four"), b"four")
    with pytest.raises(Exception, match=said):
        asked.compute(call()._replace(elsewhere=places))

    asked.compute(call())


def test_one_tensor_may_be_named_twice(asked):
    """Two entries of the same digest are two payloads."""
    asked.put(ZERO.digest, bytes(24))
    header = asked.compute(encode_call(L1, {"pred": ZERO, "target": ZERO}))

    assert list(header.grads) == ["pred"]


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A server that takes little."""
    flags = {
        "--max-message-bytes": 3_000_000,
        "--max-bytes-in-flight": 4_000_000,
        "--max-tenant-resident-bytes": 2_500_000,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    running = ServerProcess(tmp_path_factory.mktemp("limited") / "log", *words)
    yield running
    running.stop()


def test_all_that_a_call_names_counts(limited, connect):
    """A small message that names more than may be in flight is refused; one that does not is not."""
    asked = connect(limited.target)
    large = Handle("float32", (500_000,), bytes(2_000_000))
    asked.put(large.digest, large.reference.content)
    with pytest.raises(Exception, match="a call and the tensors that it names") as refused:
        asked.compute(encode_call(L1, {"pred": large, "target": large, "weight": large}))

    assert type(refused.value).__name__ == "MessageTooLargeError"
    asked.put(ZERO.digest, bytes(24))
    asked.compute(call())


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (2_600_000, "a tensor that stays must have at most 2497952 bytes"),
        (3_100_000, "a message must have at most 3000000 bytes"),
    ],
)
def test_content_over_a_limit_is_refused(limited, connect, size, said):
    """Over that of tensors that stay, and over that of messages."""
    asked = connect(limited.target)
    with pytest.raises(Exception, match=said) as refused:
        asked.put(digest_of(bytes(size)), bytes(size))

    assert type(refused.value).__name__ == "MessageTooLargeError"
    assert asked.put(digest_of(bytes(2_400_000)), bytes(2_400_000))


def test_a_server_that_keeps_nothing_says_so(serve, connect):
    """With --max-resident-bytes 0 it does not offer it, and a call that names something gets an error."""
    asked = connect(serve("--max-resident-bytes", "0").target)
    planes = pb.GetServerResponse.FromString(asked.ask("GetServer", b"")).planes
    with pytest.raises(Exception, match="no tensor stays with this server") as refused:
        asked.put(ZERO.digest, bytes(24))

    assert "resident" not in planes
    assert type(refused.value).__name__ == "NotServedError"
    with pytest.raises(Exception, match="must name a tensor"):
        asked.compute(call())


def resident_bytes(process):
    """Memory of a process that is in RAM."""
    with open(f"/proc/{process.pid}/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


def test_thousands_of_puts_stay_within_the_quota(serve, connect):
    """Of several connections at once; memory grows by the quota, and not by all that was put."""
    quota = 8 << 20
    server = serve("--max-resident-bytes", str(quota))
    warm = connect(server.target)
    for number in range(150):
        warm.put(digest_of(content(number)), content(number))
    before = resident_bytes(server.process)

    def flood(of):
        own = connect(server.target)
        for number in range(400):
            put = content(of + number)
            own.put(digest_of(put), put)

    floods = [threading.Thread(target=flood, args=(of,)) for of in (10_000, 20_000, 30_000)]
    for one in floods:
        one.start()
    for one in floods:
        one.join()

    # 1,200 × 64 KiB are 79 MB.
    assert resident_bytes(server.process) - before < 3 * quota
