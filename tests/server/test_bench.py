"""The load generator: what it counts, without a clock, and short runs against a real server."""

import itertools
import json
import subprocess
import sys

import pytest

import lossserver
from lossserver.bench.calls import CallError, message_of
from lossserver.bench.figures import added, figures
from lossserver.bench.load import timings_of
from lossserver.bench.options import Options
from lossserver.bench.outcomes import Outcomes, Window, arrivals
from lossserver.bench.run import orders
from losswire import frame
from losswire.v1 import loss_pb2 as pb

WINDOW = Window(begin=10, end=20)


def bench(*arguments):
    """`lossserver bench ARGUMENTS`, to its end."""
    return subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-m", "lossserver", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_arrivals_are_a_poisson_process():
    """Gaps have the mean and the spread of an exponential distribution, the same for a seed."""
    moments = list(itertools.islice(arrivals(50, seed=1), 20_000))
    gaps = [b - a for a, b in itertools.pairwise([0, *moments])]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert moments == list(itertools.islice(arrivals(50, seed=1), 20_000))
    assert moments != list(itertools.islice(arrivals(50, seed=2), 20_000))
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert spread == pytest.approx(mean, rel=0.05)


def test_latency_counts_from_when_a_call_should_have_started():
    """A call that a stalled server or generator held up has waited all that time."""
    outcomes = Outcomes()
    for meant in (11.0, 12.0, 13.0):
        # One second of work each, one after another: the third was sent two seconds late.
        outcomes.ended(meant, 12.0 + 2 * (meant - 11.0), "OK", WINDOW)

    assert list(outcomes.latencies) == [1, 2, 3]


def test_what_was_meant_for_another_time_is_not_counted():
    """Calls of the warm-up and those after the window leave no latency and no status."""
    outcomes = Outcomes()
    for meant in (9.9, 10.0, 19.9, 20.0):
        outcomes.ended(meant, meant + 1, "OK", WINDOW)

    assert outcomes.statuses == {"OK": 2}


def test_a_refusal_is_a_status_and_no_latency():
    """Fast refusals do not make the answers look fast."""
    outcomes = Outcomes()
    outcomes.ended(11, 11.001, "RESOURCE_EXHAUSTED", WINDOW)
    outcomes.ended(11, 12, "OK", WINDOW)
    found = figures(outcomes, 10)

    assert found["statuses"] == {"OK": 1, "RESOURCE_EXHAUSTED": 1}
    assert found["latency"] == dict.fromkeys(("p50", "p90", "p99", "p99.9", "max"), 1)


def test_figures_of_several_processes_add_up():
    """Quantiles are of all latencies together, means of all that the server told."""
    kinds = [Outcomes(), Outcomes()]
    for i, latency in enumerate(range(1, 101)):
        kinds[i % 2].ended(11, 11 + latency, "OK", WINDOW)
    kinds[0].replied(100, 10, pb.Timings(queue=1))
    kinds[1].replied(200, 20, pb.Timings(queue=3))
    found = figures(added(kinds), 10)

    assert found["latency"] == {"p50": 50, "p90": 90, "p99": 99, "p99.9": 100, "max": 100}
    assert found["server"]["queue"] == 2
    assert found["calls_per_second"] == 0.2
    assert found["bytes_per_second"] == {"up": 30, "down": 3}


def test_of_nothing_there_are_no_figures():
    """A run in which nothing was answered has no latencies, rather than zeros."""
    found = figures(Outcomes(), 10)

    assert set(found["latency"].values()) == set(found["server"].values()) == {None}


def test_processes_share_what_there_is_to_do():
    """All callers, the whole rate and all connections, and no two processes alike in chance."""
    shares = orders(Options(callers=7, rate=9, connections=2, processes=3), "here:1", (b"",))

    assert [one.callers for one in shares] == [3, 2, 2]
    assert [one.connections for one in shares] == [1, 1, 1]
    assert sum(one.rate for one in shares) == 9
    assert len({one.seed for one in shares}) == 3


@pytest.mark.parametrize(
    "call",
    [
        "FocalLoss:8x5",
        "FocalLoss:8x5/bfloat16",
        "GIoULoss:8x4/float64",
        "CrossEntropyLoss:8x5",
        "CrossEntropyLoss:2x5x3x3",
        "SmoothL1Loss:8x4",
        "torch.BCELoss:8x5",
        "QualityFocalLoss:8x5",
        "GHMC:8x5",
        "ZLoss:8x5",
        '{"type": "FocalLoss", "gamma": 1.5}:8x5',
        '{"type": "CrossEntropyLoss", "use_sigmoid": true}:8x5',
        "torch.CTCLoss:pred=9x2x5,target=2x3/int64<5,input_lengths=2/int64,target_lengths=2/int64",
    ],
)
def test_inputs_are_made_for_the_usual_losses(call):
    """A loss and a shape are enough, and the same seed gives the same bytes."""
    assert message_of(call, 0) == message_of(call, 0) != message_of(call, 1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("FocalLoss", "a call must be written LOSS:SHAPE"),
        ("FocalLoss:8x", "an input must be written SHAPE or NAME=SHAPE"),
        ("FocalLoss:8x5/float99", "dtype must be one of bool"),
        ("FocalLoss:8x5,target=8", "each input must be named"),
        ("Focal:8x5", "near names: FocalLoss"),
        ('{"type" "FocalLoss"}:8x5', "a config must be JSON"),
        ('{"type": "FocalLoss", "gamma": -1}:8x5', "config.gamma: must be at least 0"),
        ("OKSLoss:8x5", "the inputs of OKSLoss must be named"),
    ],
)
def test_a_call_that_cannot_be_made_says_why(call, said):
    """What is wrong is said before anything is sent."""
    with pytest.raises(CallError, match=said):
        message_of(call, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"callers": 1, "processes": 2},
        {"seconds": 0},
        {"deadline": 0},
        {"rate": -1},
        {"connections": 0},
        {"call": ()},
    ],
)
def test_options_are_checked(wrong):
    """A run that cannot be is refused before it begins."""
    with pytest.raises(ValueError, match="must"):
        Options(**wrong)


def test_a_reply_without_timings_is_a_reply():
    """Another server, even one that echoes, can be measured."""
    echoed = message_of("FocalLoss:8x5", 0)
    told = pb.ResultHeader(timings=pb.Timings(queue=2)).SerializeToString()

    assert timings_of(echoed) is None
    assert timings_of(b"no message") is None
    assert timings_of(frame.write(told, [])) == pb.Timings(queue=2)


def test_a_stream_of_equal_calls_is_measured(server):
    """Sixteen callers over one stream, whose calls are answered together."""
    shown = bench(
        *("--target", server.target, "--call", "FocalLoss:64x80", "--plane", "stream"),
        *("--callers", "16", "--processes", "1", "--seconds", "0.5", "--warmup", "0.1"),
        *("--json", "-"),
    )

    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["calls"][-1]["statuses"].keys() == {"OK"}


def test_a_closed_loop_measures_a_server(server, tmp_path):
    """Two kinds of calls from three callers in two processes, in a table and in JSON."""
    file = tmp_path / "figures.json"
    calls = ("FocalLoss:64x80", "GIoULoss:100x4")
    shown = bench(
        *("--target", server.target, "--call", *calls, "--callers", "3", "--processes", "2"),
        *("--seconds", "0.5", "--warmup", "0.1", "--json", str(file)),
    )
    found = json.loads(file.read_text())
    both = found["calls"][-1]

    assert shown.returncode == 0, shown.stderr
    assert "closed loop: 3 callers over 2 connections, 2 processes" in shown.stdout
    assert [call["call"] for call in found["calls"]] == [*calls, "all"]
    assert both["statuses"].keys() == {"OK"}
    assert both["calls_per_second"] == pytest.approx(
        sum(call["calls_per_second"] for call in found["calls"][:2])
    )
    assert 0 < both["latency"]["p50"] <= both["latency"]["max"]
    assert both["server"]["compute"] > 0
    assert found["command"][1:3] == ["bench", "--target"]
    assert len(found["generator"]["busy"]) == 2


def test_an_open_loop_measures_a_server(server):
    """As many calls as arrivals, whose lateness is told; refusals are counted by their status."""
    asked = "FocalLoss:pred=8x5,target=8/int64<99"
    shown = bench(
        *("--target", server.target, "--call", "L1Loss:5", asked, "--rate", "200"),
        *("--seconds", "0.5", "--warmup", "0", "--json", "-"),
    )
    found = json.loads(shown.stdout)
    right, wrong, both = found["calls"]
    meant = sum(1 for _ in itertools.takewhile(lambda moment: moment < 0.5, arrivals(200, 0)))

    assert right["statuses"].keys() == {"OK"}
    assert wrong["statuses"].keys() == {"INVALID_ARGUMENT"}
    assert sum(both["statuses"].values()) == meant
    assert found["generator"]["late"]["max"] >= 0


def test_it_starts_a_server_of_its_own(monkeypatch):
    """Without a target there is one to measure all the same."""
    monkeypatch.setenv("LOSSSERVER_DEVICE", "cpu")
    shown = bench("--seconds", "0.3", "--warmup", "0")

    assert f"lossserver {lossserver.__version__} on cpu" in shown.stdout
    assert "OK" in shown.stdout


def test_nobody_there_is_said():
    """A server that does not answer ends the run in a sentence."""
    done = bench("--target", "[::1]:1", "--seconds", "1")

    assert done.returncode == 1
    assert "[::1]:1 does not answer: UNAVAILABLE" in done.stderr
    assert "Traceback" not in done.stderr
