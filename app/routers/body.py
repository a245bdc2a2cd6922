"""Reading a request body within bounds of size, time and memory."""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import BodyTooLarge
from app.inbox.arriving import ArrivingBodies


async def read_body(
    receive: Receive, declared: bytes, *, limit: int, seconds: float, room: ArrivingBodies
) -> bytes:
    """The raw body, at most `limit` bytes, whatever length was declared or not (chunked).

    `declared` is the Content-Length header, or empty. Raises BodyTooLarge as soon as it is known,
    Overloaded where too many large bodies arrive at once, HTTPException 408 when the body is not
    there after `seconds` (a sender of one byte a second would hold the connection for days), and
    Starlette's ClientDisconnect.
    """
    with room.reserve(expected_size(declared, limit=limit)):
        try:
            async with asyncio.timeout(seconds):
                return await _read(receive, limit)
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}
            ) from None


def expected_size(declared: bytes, *, limit: int) -> int:
    """The bytes that a body may come to: as declared, else up to `limit`. Raises BodyTooLarge."""
    digits = declared.lstrip(b"0")
    if declared and not digits:
        return 0
    if not digits.isdigit():
        return limit
    # Compared by length first: int() of thousands of digits raises.
    if len(digits) > len(str(limit)) or int(digits) > limit:
        raise BodyTooLarge
    return int(digits)


async def _read(receive: Receive, limit: int) -> bytes:
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
