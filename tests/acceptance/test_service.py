"""The running service: its way down, corrections, mappings that come late, bundling."""

import asyncio
import signal
import socket

import asyncpg
import pytest

from tests.acceptance.bridge import MAPPINGS, Bridge
from tests.acceptance.processes import until
from tests.acceptance.sender import METER, Message, Sender, Usage, message
from tests.ports import free_port

pytestmark = pytest.mark.acceptance
# The advisory lock under which replicas that start together migrate one after the other.
MIGRATION_LOCK = 7_261_946_001


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_what_is_in_flight_finish(
    bridge: Bridge, number: signal.Signals
) -> None:
    await bridge.know_everything()
    service, address = await bridge.serve()
    sender = Sender([f"{address}/webhooks/openmeter"])
    slow = bridge.stripe.inject("latency", ms=700, times=None)
    await sender.deliver([message(Usage(s, h, s + h)) for h in range(3) for s in (3, 4, 5)])

    async def in_flight() -> bool:
        return bridge.stripe.met(slow) >= 3  # one per subscription

    await until(in_flight, "calls are in flight")
    assert await service.stop(number) == 0
    assert "Traceback" not in service.output()
    executed = len(bridge.stripe.ledger())
    attempts = await bridge.rows("select outcome from attempts")
    assert [row["outcome"] for row in attempts] == ["succeeded"] * executed
    assert 3 <= executed < 9
    assert await bridge.rows("select 1 from subscription_lanes where lease_token is not null") == []
    bridge.stripe.heal()
    await bridge.serve()
    await bridge.comes_out_even(sender)
    assert len(bridge.stripe.ledger()) == 9


async def test_a_correction_there_and_back_ends_where_it_began(bridge: Bridge) -> None:
    await bridge.know_everything()
    _, address = await bridge.serve(DISPATCH_LINGER="0")
    sender = Sender([f"{address}/webhooks/openmeter"])
    bridge.stripe.control("PATCH", "/settings", {"write_latency_ms": 100})
    for value in (5, 7, 5):
        await sender.deliver([message(Usage(3, 0, value))])
    await bridge.comes_out_even(sender)
    assert bridge.stripe.totals()["si_2"] == 5


async def test_messages_out_of_order_end_at_the_newest(bridge: Bridge) -> None:
    await bridge.know_everything()
    _, address = await bridge.serve()
    sender = Sender([f"{address}/webhooks/openmeter"])
    day = [message(Usage(3, 0, value)) for value in (1, 2, 3, 4)]
    for entry in (day[2], day[0], day[3], day[1]):
        await sender.deliver([entry])
    sender.sent.sort(key=day.index)
    await bridge.comes_out_even(sender)
    assert bridge.stripe.totals()["si_2"] == 4


async def test_a_burst_of_corrections_is_few_calls(bridge: Bridge) -> None:
    await bridge.know_everything()
    # On a busy machine half a second may pass between two deliveries of the burst.
    _, address = await bridge.serve(DISPATCH_LINGER="2")
    sender = Sender([f"{address}/webhooks/openmeter"])
    await sender.deliver([message(Usage(3, 0, value)) for value in range(1, 61)])
    await bridge.comes_out_even(sender)
    # Ten lingers at most: a call each 20 s at least, and one for the rest.
    assert len(bridge.stripe.quantities()) <= 4
    assert bridge.stripe.quantities()[-1] == 60


async def test_unmapped_usage_is_parked_and_billed_when_its_mapping_comes(bridge: Bridge) -> None:
    await bridge.apply_mappings()
    _, address = await bridge.serve()
    sender = Sender([f"{address}/webhooks/openmeter"])
    stray: list[Message] = [message(Usage(9, 0, 900)), message(Usage(9, 1, 90))]
    await sender.deliver([message(Usage(1, 0, 5)), *stray])
    await bridge.comes_out_even(sender, unmapped=stray)
    _, summary = await bridge.get(f"{address}/v1/summary")
    [parked] = summary["parked"]
    assert (parked["reason"], parked["count"]) == ("no_subject_mapping", 2)
    _, page = await bridge.get(f"{address}/v1/windows?state=parked")
    assert {window["svix_id"] for window in page["data"]} == {e.svix_id for e in stray}

    more = "  - {subject: customer-9, subscription: sub_5}\n"
    output = await bridge.apply_mappings(MAPPINGS + more)
    assert "customer-9" in output

    async def billed() -> bool:
        return bridge.stripe.totals()["si_5"] == 990

    await until(billed, "the parked usage is billed")
    await bridge.succeeding("drain", "--timeout", "30")
    assert bridge.stripe.totals()["si_1"] == 5
    _, summary = await bridge.get(f"{address}/v1/summary")
    assert (summary["drained"], summary["parked"]) == (True, [])
    output = await bridge.apply_mappings(MAPPINGS + more)
    assert "Nothing to change" in output


async def test_the_send_command_is_a_delivery_like_any_other(bridge: Bridge) -> None:
    await bridge.know_everything()
    _, address = await bridge.serve()
    words = ["send", "--subject", "customer-3", "--meter", METER, "--value", "500"]
    words += ["--url", f"{address}/webhooks/openmeter", "--message-id", "msg_by_hand"]
    first, second = await asyncio.gather(bridge.succeeding(*words), bridge.succeeding(*words))
    assert sorted("accepted" in output for output in (first, second)) == [False, True]
    assert sorted("duplicate" in output for output in (first, second)) == [False, True]
    await bridge.succeeding("drain", "--timeout", "30")
    assert bridge.stripe.totals()["si_2"] == 500


async def test_a_signal_during_the_start_is_a_signal(bridge: Bridge) -> None:
    """While it waits for its turn to migrate: it stops when the wait is over, serving nothing."""
    connection = await asyncpg.connect(bridge.address)
    try:
        await connection.execute("select pg_advisory_lock($1)", MIGRATION_LOCK)
        service = bridge.start("serve", "--migrate", "--port", str(free_port()))

        async def waiting() -> bool:
            return bool(
                await bridge.rows(
                    "select 1 from pg_stat_activity where datname = current_database() "
                    "and wait_event = 'advisory'"
                )
            )

        await until(waiting, "it waits for its turn to migrate")
        service.process.send_signal(signal.SIGTERM)
    finally:
        await connection.close()
    assert await service.ended() == 0
    assert "listening" not in service.output()
    assert "Traceback" not in service.output()


async def test_a_taken_port_is_one_line_that_names_it(bridge: Bridge) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        service = bridge.start("serve", "--port", str(port))
        assert await service.ended() == 2
    [line] = service.output().splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line


async def test_a_worker_ends_cleanly_with_nothing_to_do(bridge: Bridge) -> None:
    worker = bridge.start("worker")
    await bridge.at_work(1)
    assert await worker.stop(signal.SIGINT) == 0
    assert "Traceback" not in worker.output()
