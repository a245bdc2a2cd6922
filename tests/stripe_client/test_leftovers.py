"""What one call leaves to the next: its connection, and neither tasks, timers nor headers."""

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest

from app.stripe_client import MalformedAnswer, StripeClient
from app.stripe_client.exchange import LARGEST_BODY, URLS_KEPT
from tests.stripe_client import bodies
from tests.stripe_client.bodies import RECORD
from tests.stripe_client.raw_server import (
    HEAD,
    Connection,
    RawServer,
    bridge,
    eventually,
    proper,
)


def posting(client: StripeClient, item: str = "si_1") -> asyncio.Task[Any]:
    return asyncio.create_task(client.post_usage_record(**{**RECORD, "subscription_item": item}))


async def asked(server: RawServer, requests: int) -> None:
    await eventually(lambda: len(server.requests) == requests)


def connector_of(client: StripeClient) -> aiohttp.BaseConnector:
    transport: Any = client._exchange._transport
    connector = transport.client.connector
    assert isinstance(connector, aiohttp.BaseConnector)
    return connector


def timers() -> int:
    loop: Any = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)


async def test_calls_share_few_connections_which_are_closed_in_the_end() -> None:
    async with bridge(proper, max_connections=4) as (client, server):
        for _ in range(10):
            await asyncio.gather(*(posting(client) for _ in range(4)))
        assert len(server.requests) == 40
        assert server.connections <= 4
        assert server.open == server.connections
        await client.aclose()
        await eventually(lambda: server.open == 0)


async def test_neither_tasks_nor_timers_are_left_of_calls_that_ended_or_were_cancelled() -> None:
    async def behave(connection: Connection) -> None:
        if b"/si_silent/" in server.requests[-1]:
            await connection.until_client_leaves()
        elif b"/si_half/" in server.requests[-1]:
            await connection.send(HEAD + b'Content-Length: 500\r\n\r\n{"id": ')
            await connection.until_client_leaves()
        else:
            await proper(connection)

    at_the_start = timers()
    async with bridge(behave, max_connections=6) as (client, server):
        for rounds in range(1, 11):
            stuck = [posting(client, item) for item in ("si_silent", "si_half")]
            await asyncio.gather(*(posting(client) for _ in range(4)))
            await asked(server, 6 * rounds)
            for call in stuck:
                call.cancel()
            assert [type(end) for end in await asyncio.gather(*stuck, return_exceptions=True)] == [
                asyncio.CancelledError
            ] * 2
        await eventually(lambda: len(asyncio.all_tasks()) == 1 + server.open)
        assert not connector_of(client)._acquired
        assert timers() <= at_the_start + 1  # the pool's, which closes idle connections
    assert timers() == at_the_start


async def test_a_call_takes_nothing_over_from_the_one_before() -> None:
    async def behave(connection: Connection) -> None:
        head = server.requests[-1].split(b"\r\n")[0]
        if head.startswith(b"GET"):
            await connection.answer(bodies.price(id="price_1"))
        else:
            item = head.split(b"/")[3].decode()
            await connection.answer(bodies.usage_record(subscription_item=item))

    async with bridge(behave, max_connections=1) as (client, server):
        for number, item in enumerate(("si_1", "si_2", "si_1")):
            record = {**RECORD, "subscription_item": item, "idempotency_key": f"key_{number}"}
            assert (await client.post_usage_record(**record)).subscription_item == item
            await client.price("price_1")
    posts, gets = server.requests[::2], server.requests[1::2]
    for number, request in enumerate(posts):
        assert request.lower().count(b"\r\nidempotency-key: key_%d\r\n" % number) == 1
        assert request.lower().count(b"\r\nidempotency-key:") == 1
        assert request.lower().count(b"\r\ncontent-type:") == 1
    for request in gets:
        assert b"\r\nidempotency-key:" not in request.lower()
        assert b"\r\ncontent-type:" not in request.lower()
        assert request.endswith(b"\r\n\r\n")


async def test_urls_are_kept_of_so_many_items_and_no_more() -> None:
    client = StripeClient(api_key="sk_test_1")
    for number in range(URLS_KEPT + 10):
        client._exchange._url(f"https://api.stripe.com/v1/{number}")
    assert client._exchange._url.cache_info().currsize == URLS_KEPT
    await client.aclose()


async def test_a_compressed_answer_is_read_although_none_was_asked_for() -> None:
    packed = gzip.compress(json.dumps(bodies.usage_record()).encode())

    async def behave(connection: Connection) -> None:
        length = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        await connection.send(HEAD + length + packed)

    async with bridge(behave) as (client, _):
        assert (await client.post_usage_record(**RECORD)).quantity == 100


async def test_a_compressed_answer_is_bounded_by_what_comes_out_of_it() -> None:
    packed = gzip.compress(b" " * (LARGEST_BODY + 1))

    async def behave(connection: Connection) -> None:
        length = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        await connection.send(HEAD + length + packed)

    async with bridge(behave) as (client, _):
        with pytest.raises(MalformedAnswer, match="over"):
            await client.post_usage_record(**RECORD)
