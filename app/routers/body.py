"""Reading a request body within bounds of size and time."""

import asyncio
from contextlib import aclosing
from http import HTTPStatus

from fastapi import Request
from starlette.exceptions import HTTPException

from app.errors import BodyTooLarge


async def read_body(request: Request, *, limit: int, seconds: float) -> bytes:
    """The raw body, at most `limit` bytes, whatever length was declared or not (chunked).

    Raises BodyTooLarge as soon as it is known, HTTPException 408 when the body is not there after
    `seconds` (a sender of one byte a second would hold the connection for days), and Starlette's
    ClientDisconnect.
    """
    declared = request.headers.get("content-length", "").lstrip("0")
    # Compared by length first: int() of thousands of digits raises.
    if declared.isdecimal() and (len(declared) > len(str(limit)) or int(declared) > limit):
        raise BodyTooLarge
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds), aclosing(request.stream()) as stream:
            async for chunk in stream:
                size += len(chunk)
                if size > limit:
                    raise BodyTooLarge
                chunks.append(chunk)
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}) from None
    return b"".join(chunks)
