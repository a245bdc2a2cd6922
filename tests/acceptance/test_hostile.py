"""Hostile load on the real program: each is refused cheaply, and who is in order is served."""

import asyncio
import gzip
import json
from collections.abc import Mapping

import httpx
import psutil
import pytest

from app.commands.outgoing import signed_headers
from tests.acceptance.bridge import Bridge
from tests.acceptance.sender import SECRET, Usage, message

pytestmark = pytest.mark.acceptance

FORGED = "whsec_" + "QUFB" * 8
MIB = 1024 * 1024
FLOOD = 1_500


def _head(length: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    first = f"POST /webhooks/openmeter HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    return f"{first}{lines}\r\n".encode()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """The status line of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    return head.split(b"\r\n")[0]


async def _huge(port: int) -> bytes:
    """The answer to a body of a terabyte, of which a part has been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_head(10**12, signed_headers(SECRET, "msg_huge", b"x")) + b"x" * 100_000)
    answer = await _answer(reader)
    writer.transport.abort()
    return answer


async def _stalled(port: int) -> asyncio.StreamWriter:
    """A forged body of a mebibyte, of which one byte has been sent."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_head(MIB, signed_headers(FORGED, "msg_stalled", b"x")) + b"{")
    return writer


async def _flood(port: int, body: bytes) -> list[bytes]:
    """Forged webhooks, one after the other on one connection; their status lines."""
    request = _head(len(body), signed_headers(FORGED, "msg_1", body)) + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for _ in range(FLOOD // 10):
        writer.write(request)
        answers.append(await _answer(reader))
    writer.transport.abort()
    return answers


async def test_hostile_load(bridge: Bridge) -> None:
    service, address = await bridge.serve("--no-worker")
    url = f"{address}/webhooks/openmeter"
    port = int(address.rpartition(":")[2])
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        # Bodies: told before they are read, however large, packed or deep.
        assert (await _huge(port)).startswith(b"HTTP/1.1 413 ")
        for body, packed, status in (
            (gzip.compress(b"0" * 10 * MIB).hex().encode(), "gzip", 415),
            (b"[" * (MIB - 1), "identity", 422),
        ):
            headers = signed_headers(SECRET, "msg_hostile", body) | {"Content-Encoding": packed}
            assert (await client.post(url, content=body, headers=headers)).status_code == status

        # A flood of forgeries, and an honest sender beside it.
        body = message(Usage(9, 0, 1)).body
        flood = asyncio.gather(*(_flood(port, body) for _ in range(10)))
        for number in range(20):
            honest = message(Usage(9, number, 1))
            headers = signed_headers(SECRET, honest.svix_id, honest.body)
            assert (await client.post(url, content=honest.body, headers=headers)).status_code == 202
        refused = [line for answers in await flood for line in answers]
        assert refused == [b"HTTP/1.1 401 Unauthorized"] * FLOOD

        # Subjects without end are rows, and nothing in memory; large bodies announced by others
        # take nobody's room.
        stalled = [await _stalled(port) for _ in range(40)]
        before = psutil.Process(service.process.pid).memory_info().rss
        report = json.loads(body)
        for batch in range(5):
            report["usage"] = [
                report["usage"][0] | {"subject": f"customer-{batch}-{number}"}
                for number in range(4_000)
            ]
            report["query"].pop("subject", None)
            whole = json.dumps(report).encode()
            headers = signed_headers(SECRET, f"msg_subjects_{batch}", whole)
            assert (await client.post(url, content=whole, headers=headers)).status_code == 202
        for writer in stalled:
            writer.transport.abort()
        after = psutil.Process(service.process.pid).memory_info().rss
    assert after < 250 * MIB
    assert after - before < 60 * MIB

    rows = await bridge.rows("select state, count(*) as n from deliveries group by 1")
    assert {row["state"]: row["n"] for row in rows} == {"received": 25, "rejected": 1}
    log = service.output()
    assert "webhook_signature_refused" in log
    assert log.count("webhook_signature_refused") < 20
    assert len(log.splitlines()) < 100
