"""What is around the program fails: Stripe, the connection to it, PostgreSQL."""

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command

from app.db import alembic_config, database_url
from app.embedded import RunningServer, start
from tests.acceptance.bridge import Bridge
from tests.acceptance.processes import answering, run, until
from tests.acceptance.sender import Sender, Usage, message
from tests.dispatch.stripe_side import StripeSide
from tests.ports import free_port

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("when", ["before_execution", "after_execution", "mid_answer"])
async def test_the_connection_to_stripe_is_cut(bridge: Bridge, when: str) -> None:
    await bridge.know_everything()
    _, address = await bridge.serve()
    bridge.stripe.inject("cut", when=when, times=3, reset=when == "after_execution")
    sender = Sender([f"{address}/webhooks/openmeter"])
    await sender.deliver([message(Usage(subject, 0, subject * 10)) for subject in range(1, 6)])
    await bridge.comes_out_even(sender)
    assert bridge.stripe.posts()["cut"] == 3
    [row] = await bridge.rows("select count(*) as n from attempts where replayed")
    assert (row["n"] > 0) == (when != "before_execution")


async def test_a_post_that_was_on_its_way_when_the_process_died_overwrites_nothing(
    bridge: Bridge,
) -> None:
    """It reaches Stripe after the correction, of which the dead process knew nothing."""
    await bridge.know_everything()
    service, address = await bridge.serve()
    sender = Sender([f"{address}/webhooks/openmeter"])
    late = bridge.stripe.inject("latency", ms=9_000, phase="arrival")
    await sender.deliver([message(Usage(3, 0, 40))])

    async def on_its_way() -> bool:
        return bridge.stripe.met(late) == 1

    await until(on_its_way, "the POST has left")
    service.kill()
    await bridge.serve(port=int(address.rpartition(":")[2]))
    await sender.deliver([message(Usage(3, 0, 7))])
    await bridge.comes_out_even(sender)
    assert bridge.stripe.quantities() == [40, 7]

    async def arrived() -> bool:
        return bridge.stripe.posts().get("200", 0) == 3

    await until(arrived, "the late POST has reached Stripe")
    await bridge.comes_out_even(sender)
    assert bridge.stripe.quantities() == [40, 7]


async def test_stripe_is_down_while_webhooks_come_in(bridge: Bridge) -> None:
    await bridge.know_everything()
    _, address = await bridge.serve()
    bridge.stripe.inject("status", status=503, times=None)
    sender = Sender([f"{address}/webhooks/openmeter"])
    day = [message(Usage(s, h, s + h)) for h in range(3) for s in range(1, 6)]
    await sender.deliver(day)
    assert {status for answers in sender.statuses.values() for status in answers} == {202}

    async def line_is_named() -> bool:
        status, body = await bridge.get(f"{address}/readyz")
        return status == 503 and "line" in body["failing"]

    await until(line_is_named, "readiness names the line")
    receive, body = await bridge.get(f"{address}/readyz/receive")
    assert (receive, body["failing"]) == (200, [])
    _, summary = await bridge.get(f"{address}/v1/summary")
    assert summary["line"]["reason"] == "stripe_unavailable"
    assert bridge.stripe.standing() == {}
    status, left = await run(
        ["drain", "--timeout", "0"], settings=bridge.settings, folder=bridge.folder
    )
    assert status == 1
    assert "12 records to send" in " ".join(left.split())
    bridge.stripe.heal()
    await bridge.comes_out_even(sender)
    assert await bridge.rows("select 1 from usage_records where failures > 0") == []
    status, body = await bridge.get(f"{address}/readyz")
    assert (status, body["failing"]) == (200, [])


async def test_stripe_hangs_and_comes_back(bridge: Bridge) -> None:
    """Not even a refusal: connections are taken and nobody answers."""
    port = free_port()
    sandbox = bridge.start("sandbox", "--port", str(port))
    own = StripeSide(f"http://127.0.0.1:{port}")
    await answering(f"{own.url}/_sandbox/clock", sandbox)
    own.start_over()
    own.subscribe(range(1, 6))
    bridge.stripe = own
    bridge.settings["STRIPE_API_BASE"] = own.url
    await bridge.know_everything()
    _, address = await bridge.serve(STRIPE_TIMEOUT="0.5")
    sender = Sender([f"{address}/webhooks/openmeter"])
    sandbox.process.send_signal(signal.SIGSTOP)
    try:
        await sender.deliver([message(Usage(s, 0, s)) for s in range(1, 6)])

        async def tried() -> bool:
            return bool(await bridge.rows("select 1 from attempts"))

        await until(tried, "an attempt was given up")
    finally:
        sandbox.process.send_signal(signal.SIGCONT)
    await bridge.comes_out_even(sender)


@pytest.fixture
def own_server() -> Iterator[RunningServer]:
    """A PostgreSQL of the test's own, with an empty schema: it is going to be stopped."""
    with tempfile.TemporaryDirectory(prefix="mb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = start(Path(folder) / "pg")
        url = database_url(server.url)
        command.upgrade(alembic_config(url), "head")
        try:
            yield server
        finally:
            server.stop()


async def test_postgresql_restarts_in_the_middle(
    own_server: RunningServer, tmp_path: Path, stripe: StripeSide
) -> None:
    bridge = Bridge(tmp_path, database_url(own_server.url), stripe)
    data = own_server.server.data_dir
    restarted = None
    try:
        await bridge.know_everything()
        worker = bridge.start("worker")
        service, address = await bridge.serve()
        await bridge.at_work(2)
        sender = Sender([f"{address}/webhooks/openmeter"])
        day = [message(Usage(s, h, 10 * s + h)) for h in range(8) for s in range(1, 6)]
        sending = asyncio.create_task(sender.deliver(day, at_once=2))

        async def some_are_sent() -> bool:
            return len(bridge.stripe.ledger()) >= 3

        await until(some_are_sent, "the first records are sent")
        await asyncio.to_thread(own_server.stop)

        async def refused() -> bool:
            return any(503 in answers for answers in sender.statuses.values())

        await until(refused, "a webhook was answered 503")
        status, body = await bridge.get(f"{address}/readyz/receive")
        assert (status, body["failing"]) == (503, ["database"])
        restarted = await asyncio.to_thread(start, data)
        await sending
        assert {s for answers in sender.statuses.values() for s in answers} <= {202, 200, 503}
        await bridge.comes_out_even(sender)
        assert (service.status, worker.status) == (None, None)
        assert await service.stop() == 0
        assert await worker.stop() == 0
    finally:
        bridge.kill_all()
        bridge.show_logs()
        if restarted is not None:
            restarted.stop()
