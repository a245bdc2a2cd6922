"""Asking a server whether it takes connections, in its own protocol.

PostgreSQL's start-up exchange is the only proof that a server is there and ready: a pid can be
anyone's, a socket file outlives its server, and `ready` in a file may be old.
"""

import contextlib
import enum
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from app.embedded.server import DATABASE, ROLE, socket_file

PROTOCOL_3_0 = 196608
TIMEOUT = 5.0
"""Seconds; a server on this machine answers in a few milliseconds."""

LARGEST_ANSWER = 65536

TOO_MANY_CONNECTIONS = "53300"
CANNOT_CONNECT_NOW = "57P03"
"""Starting up, recovering or shutting down."""


class State(enum.Enum):
    ABSENT = "nobody listens"
    NOT_YET = "starting, recovering or shutting down"
    READY = "takes connections"
    REFUSED = "up, but refuses this connection for good"


@dataclass(frozen=True, slots=True)
class Answer:
    state: State
    detail: str = ""


def ask(socket_dir: Path) -> Answer:
    """One connection to the server behind `socket_dir`, closed again at once."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(os.fsencode(socket_file(socket_dir)))
            connection.sendall(startup_message())
            answer = read_answer(connection)
            if answer.state is State.READY:
                with contextlib.suppress(OSError):  # a full server has hung up already
                    connection.sendall(b"X" + struct.pack("!i", 4))
            return answer
    except TimeoutError:
        return Answer(State.NOT_YET, "no answer")
    except (ConnectionResetError, BrokenPipeError):
        return Answer(State.NOT_YET, "the connection was cut")
    except OSError as error:
        return Answer(State.ABSENT, error.strerror or str(error))


def startup_message() -> bytes:
    parameters = {"user": ROLE, "database": DATABASE, "application_name": "meterbridge-handshake"}
    body = struct.pack("!i", PROTOCOL_3_0)
    for name, value in parameters.items():
        body += name.encode() + b"\0" + value.encode() + b"\0"
    body += b"\0"
    return struct.pack("!i", len(body) + 4) + body


def read_answer(connection: socket.socket) -> Answer:
    """Read messages until the server is ready for a query or says why it is not."""
    while True:
        header = read_exactly(connection, 5)
        kind, length = header[:1], struct.unpack("!i", header[1:])[0] - 4
        if not 0 <= length <= LARGEST_ANSWER:
            return Answer(State.REFUSED, "what listens on the socket does not speak PostgreSQL")
        body = read_exactly(connection, length)
        if kind == b"Z":
            return Answer(State.READY)
        if kind == b"E":
            return refusal(body)
        if kind == b"R" and body[:4] != b"\0\0\0\0":
            return Answer(State.REFUSED, "the server asks for a password")


def refusal(body: bytes) -> Answer:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    code, message = fields.get(b"C", ""), fields.get(b"M", "")
    if code == TOO_MANY_CONNECTIONS:  # full, hence alive
        return Answer(State.READY, message)
    if code == CANNOT_CONNECT_NOW:
        return Answer(State.NOT_YET, message)
    return Answer(State.REFUSED, message)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data
