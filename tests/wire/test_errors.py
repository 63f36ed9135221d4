"""losswire.errors and losswire.status: an error crosses the wire as itself."""

import base64
import inspect
import urllib.parse

import pytest
from google.rpc import error_details_pb2, status_pb2

from losswire import errors
from losswire.errors import STATUS, LossError
from losswire.status import from_status, to_status


def leaves(cls: type[LossError]) -> set[type[LossError]]:
    # A client's own kinds of these never travel.
    below = [one for one in cls.__subclasses__() if one.__module__ == errors.__name__]
    return set().union(*map(leaves, below)) if below else {cls}


def test_every_error_has_one_status():
    """No error is raised that cannot be told apart at the far end."""
    assert leaves(LossError) == set(STATUS)
    assert len(set(STATUS.values())) == len(STATUS)


def test_the_tree_in_the_docstring_is_the_tree():
    """The picture at the top of the file names every class with its code, and no other."""
    words = errors.__doc__.split()
    named = {word: words[i + 1] for i, word in enumerate(words) if word.endswith("Error")}

    assert set(named) == {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    assert all(named[cls.__name__] == code for cls, (code, _) in STATUS.items())


@pytest.mark.parametrize("cls", STATUS, ids=lambda cls: cls.__name__)
def test_an_error_crosses_the_wire(cls):
    """Class, field, rule and what was given arrive."""
    sent = cls("must be at least 0", field="config.gamma", given=-1)
    code, details = to_status(sent)
    back = from_status(code, str(sent), details)

    assert type(back) is cls
    assert (back.field, back.rule, back.given) == ("config.gamma", "must be at least 0", "-1")
    assert str(back) == str(sent) == "config.gamma: must be at least 0; given -1"


def test_details_are_googles():
    """Another client finds the reason, the field violation and when to retry, in standard form."""
    _, details = to_status(errors.OverloadedError("try again", field="x"))
    status = status_pb2.Status.FromString(details)
    kinds = [error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo]
    unpacked = []
    for detail, kind in zip(status.details, kinds, strict=True):
        unpacked.append(kind())
        assert detail.Unpack(unpacked[-1])

    assert unpacked[0].reason == "OVERLOADED"
    assert unpacked[1].field_violations[0].field == "x"
    assert unpacked[2].retry_delay.nanos > 0


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        ("UNAVAILABLE", errors.UnreachableError),
        ("DEADLINE_EXCEEDED", errors.DeadlineError),
        ("CANCELLED", errors.CancelledError),
        ("UNKNOWN", errors.InternalError),
        ("RESOURCE_EXHAUSTED", errors.OverloadedError),
    ],
)
@pytest.mark.parametrize("details", [b"", b"\xff\xff", status_pb2.Status().SerializeToString()])
def test_a_status_that_is_not_ours_still_says_something(code, cls, details):
    """A proxy's 503 or gRPC's own refusal becomes the error of its code."""
    assert type(from_status(code, "said the proxy", details)) is cls
    assert "said the proxy" in str(from_status(code, "said the proxy", details))


@pytest.mark.parametrize("letter", ["x", "é", "🔥"])
def test_what_a_stranger_wrote_is_not_repeated_at_length(letter):
    """Message and details together fit the 8 KiB of HTTP/2 headers, in any alphabet."""
    sent = errors.UnknownLossError(letter * 9999, field=letter * 9999, given=letter * 9999)
    _, details = to_status(sent)
    message = urllib.parse.quote(str(sent), safe=" ")

    assert len(message) + len(base64.b64encode(details)) < 7500
