"""SIGTERM and SIGINT: the first lets everything finish, the second nothing."""

import asyncio
import signal
from typing import Self

import pytest

from app.commands.outgoing import signed_headers
from tests.acceptance.bridge import Bridge
from tests.acceptance.processes import Program, until
from tests.acceptance.sender import SECRET, Message, Sender, Usage, message

pytestmark = pytest.mark.acceptance


class HalfSent:
    """A webhook of which the service has the head, and has said that it wants the body."""

    def __init__(self, address: str, entry: Message) -> None:
        self.port = int(address.rpartition(":")[2])
        self.entry = entry

    async def __aenter__(self) -> Self:
        """Send the head, and wait until the service asks for the body."""
        headers = {
            "Host": "bridge",
            "Content-Length": str(len(self.entry.body)),
            "Expect": "100-continue",
            **signed_headers(SECRET, self.entry.svix_id, self.entry.body),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(f"POST /webhooks/openmeter HTTP/1.1\r\n{lines}\r\n".encode())
        assert await self.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def finish(self) -> bytes:
        """Send the body; returns all that is answered until the connection is closed."""
        self.writer.write(self.entry.body)
        return await self.reader.read()

    async def refused(self) -> bool:
        """Whether nobody listens any more."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return True
        writer.close()
        return False


async def test_serve_finishes_what_it_has_until_a_second_signal(bridge: Bridge) -> None:
    service, address = await bridge.serve("--no-worker", SHUTDOWN_GRACE="600")
    async with (
        HalfSent(address, message(Usage(9, 0, 1))) as one,
        HalfSent(address, message(Usage(9, 1, 1))) as other,
    ):
        service.process.send_signal(signal.SIGTERM)
        await until(one.refused, "no connection is taken")
        answer = await one.finish()
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert b"connection: close" in answer
        assert service.status is None  # it waits for the other one
        assert await service.stop(signal.SIGINT) == 128 + signal.SIGINT
    # Whoever was not answered sends again: nothing was promised.
    kept = await bridge.rows("select svix_id from deliveries")
    assert [row["svix_id"] for row in kept] == [one.entry.svix_id]
    assert other.entry.svix_id != one.entry.svix_id


async def _stopping(worker: Program) -> None:
    async def said() -> bool:
        return "stopping" in worker.output()

    await until(said, "the worker stops")


async def test_a_second_signal_ends_worker_at_once_and_costs_a_lease(bridge: Bridge) -> None:
    await bridge.know_everything()
    _, address = await bridge.serve("--no-worker")
    worker = bridge.start("worker", SHUTDOWN_GRACE="600", STRIPE_TIMEOUT="100")
    sender = Sender([f"{address}/webhooks/openmeter"])
    slow = bridge.stripe.inject("latency", ms=8_000)
    await sender.deliver([message(Usage(3, 0, 40))])

    async def on_its_way() -> bool:
        return bridge.stripe.met(slow) == 1

    await until(on_its_way, "a call is in flight")
    worker.process.send_signal(signal.SIGTERM)
    await _stopping(worker)
    assert worker.status is None
    assert await worker.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    bridge.stripe.heal()
    successor = bridge.start("worker")
    await bridge.comes_out_even(sender)
    assert await successor.stop() == 0
