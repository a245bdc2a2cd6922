"""What a server's first bytes mean."""

import socket
import struct
import threading
from pathlib import Path

import pytest

from app.embedded.handshake import Answer, State, ask
from app.embedded.server import socket_file


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def error(code: bytes, text: bytes) -> bytes:
    return message(b"E", b"SFATAL\0C" + code + b"\0M" + text + b"\0\0")


AUTHENTICATED = message(b"R", struct.pack("!i", 0))
PARAMETER = message(b"S", b"server_version\x0018.4\0")
READY = message(b"Z", b"I")

CASES = {
    "ready": (AUTHENTICATED + PARAMETER + READY, State.READY),
    "starting": (error(b"57P03", b"the database system is starting up"), State.NOT_YET),
    "full": (error(b"53300", b"too many clients"), State.READY),
    "no such database": (AUTHENTICATED + error(b"3D000", b"no database"), State.REFUSED),
    "wants a password": (message(b"R", struct.pack("!i", 10)), State.REFUSED),
    "speaks HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", State.REFUSED),
    "negative length": (b"R" + struct.pack("!i", -5), State.REFUSED),
    "hangs up": (b"", State.NOT_YET),
    "hangs up in the middle": (AUTHENTICATED[:6], State.NOT_YET),
}


@pytest.mark.parametrize(("reply", "state"), CASES.values(), ids=CASES)
def test_answers(place: Path, reply: bytes, state: State) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_file(place)))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

        server = threading.Thread(target=serve)
        server.start()
        assert ask(place).state is state
        server.join()


def test_the_reason_is_passed_on(place: Path) -> None:
    answer = Answer(State.REFUSED, "no database")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_file(place)))
        listener.listen()
        server = threading.Thread(target=lambda: refuse(listener))
        server.start()
        assert ask(place) == answer
        server.join()


def refuse(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(error(b"3D000", b"no database"))


def test_a_socket_file_without_a_server(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_file(place)))
    assert ask(place).state is State.ABSENT


def test_no_socket(place: Path) -> None:
    assert ask(place).state is State.ABSENT
