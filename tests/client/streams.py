"""What a client has under the hood: its line, its stream, and the bypass of that."""

import threading

from lossclient.stream import Stream


def line_of(client):
    """The line to a client's only target."""
    return client.transport.targets.order()[0].line


def stream_of(client):
    """The stream that a client has now."""
    return line_of(client).keep(Stream, Stream)


def reading_of(client):
    """The reading of the bypass of a client's stream, once there is one."""
    found = stream_of(client)._carrier
    while found._reading is None:
        threading.Event().wait(0.001)
    return found._reading


def bypass_of(client):
    """That bypass itself."""
    return reading_of(client)._bypass
