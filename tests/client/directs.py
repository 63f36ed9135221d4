"""Direct connections of a line, for tests."""

from lossclient.direct import Directs


def directs_of(line):
    """What a line keeps of them."""
    return line.keep(Directs, Directs)


def idle_of(line):
    """Those that wait for their next call."""
    return directs_of(line)._idle
