"""Reading a request body within bounds of size, time and memory."""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import BodyTooLarge, Overloaded
from app.inbox.arriving import ArrivingBodies, ArrivingBody


async def read_body(receive: Receive, *, limit: int, seconds: float, room: ArrivingBodies) -> bytes:
    """The raw body, at most `limit` bytes, whatever length was declared or not (chunked).

    Raises BodyTooLarge as soon as it is known, Overloaded where it had to go for other large
    bodies that arrive at once, HTTPException 408 when the body is not there after `seconds` (a
    sender of one byte a second would hold the connection for days), and Starlette's
    ClientDisconnect.
    """
    body = ArrivingBody()
    deadline = asyncio.get_running_loop().call_later(seconds, body.give_up)
    try:
        return await _read(receive, limit, body, room)
    except asyncio.CancelledError:
        if not body.was_given_up():
            raise
        if body.dropped:
            raise Overloaded from None
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}) from None
    finally:
        deadline.cancel()
        body.end()
        room.end(body)


def check_length(declared: bytes, *, limit: int) -> None:
    """Raises BodyTooLarge where a Content-Length (empty: none) says more than `limit` bytes."""
    digits = declared.lstrip(b"0")
    # Compared by length first: int() of thousands of digits raises.
    if digits.isdigit() and (len(digits) > len(str(limit)) or int(digits) > limit):
        raise BodyTooLarge


async def _read(receive: Receive, limit: int, body: ArrivingBody, room: ArrivingBodies) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge
        if chunk:
            chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        room.grow(body, size)
