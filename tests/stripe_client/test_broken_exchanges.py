"""Exchanges that break: what may have reached Stripe is in doubt, what cannot have is not."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from app.stripe_client import FailurePhase, StripeClient, StripeUnreachable, Timeouts
from tests.stripe_client.bodies import RECORD
from tests.stripe_client.conftest import API_KEY
from tests.stripe_client.raw_server import (
    HEAD,
    Connection,
    bridge,
    client_of,
    eventually,
    proper,
)


async def failure(client: StripeClient) -> StripeUnreachable:
    with pytest.raises(StripeUnreachable) as caught:
        await client.post_usage_record(**RECORD)
    assert API_KEY not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value


async def test_refused_connections_are_certainly_not_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening
        async with client_of(f"http://127.0.0.1:{taken.getsockname()[1]}") as client:
            error = await failure(client)
    assert (error.phase, error.sent) == (FailurePhase.CONNECT, False)


async def test_an_unknown_host_is_certainly_not_sent() -> None:
    async with client_of("http://stripe.invalid") as client:
        error = await failure(client)
    assert (error.phase, error.sent) == (FailurePhase.CONNECT, False)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_failed_tls_handshake_is_certainly_not_sent(greeting: bytes) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with client_of(f"https://127.0.0.1:{port}") as client:
            error = await failure(client)
    assert (error.phase, error.sent) == (FailurePhase.CONNECT, False)


async def test_no_free_connection_in_time_is_certainly_not_sent() -> None:
    timeouts = Timeouts(connect=0.05, pool=0.05, read=20, total=20)

    async with bridge(Connection.until_client_leaves, max_connections=1, timeouts=timeouts) as (
        client,
        server,
    ):
        stuck = asyncio.create_task(client.post_usage_record(**RECORD))
        await eventually(lambda: len(server.requests) == 1)
        error = await failure(client)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        assert len(server.requests) == 1
    assert (error.phase, error.sent) == (FailurePhase.CONNECT, False)


async def hang_up_silently(connection: Connection) -> None:
    connection.hang_up()


async def reset_silently(connection: Connection) -> None:
    connection.reset()


async def hang_up_in_the_status_line(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 20")
    connection.hang_up()


async def hang_up_in_the_headers(connection: Connection) -> None:
    await connection.send(HEAD + b"Content-Le")
    connection.hang_up()


async def hang_up_in_the_body(connection: Connection) -> None:
    await connection.send(HEAD + b'Content-Length: 500\r\n\r\n{"id": "mbur_1", ')
    connection.hang_up()


async def reset_in_the_body(connection: Connection) -> None:
    await connection.send(HEAD + b'Content-Length: 500\r\n\r\n{"id": "mbur_1", ')
    connection.reset()


async def hang_up_in_a_chunk(connection: Connection) -> None:
    await connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{")
    connection.hang_up()


async def garbage(connection: Connection) -> None:
    await connection.send(b"\x00\x01SSH-2.0-OpenSSH_9.6\r\n\r\n")
    connection.hang_up()


async def garbage_in_a_chunk(connection: Connection) -> None:
    await connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")
    connection.hang_up()


async def endless_headers(connection: Connection) -> None:
    await connection.send(HEAD + b"X: " + b"x" * 200_000 + b"\r\n\r\n")
    connection.hang_up()


async def two_lengths(connection: Connection) -> None:
    await connection.send(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}")
    connection.hang_up()


async def false_compression(connection: Connection) -> None:
    await connection.send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")
    connection.hang_up()


@pytest.mark.parametrize(
    "behave",
    [
        hang_up_silently,
        reset_silently,
        hang_up_in_the_status_line,
        hang_up_in_the_headers,
        hang_up_in_the_body,
        reset_in_the_body,
        hang_up_in_a_chunk,
        garbage,
        garbage_in_a_chunk,
        endless_headers,
        two_lengths,
        false_compression,
    ],
)
async def test_whatever_breaks_after_the_request_left_is_in_doubt_and_sent_once(
    behave: Callable[[Connection], Any],
) -> None:
    async with bridge(behave) as (client, server):
        error = await failure(client)
        assert error.sent
        assert error.in_doubt
        assert error.phase in {FailurePhase.EXCHANGE, FailurePhase.PROTOCOL}
        assert len(server.requests) == 1


async def test_after_a_broken_exchange_the_next_one_works() -> None:
    async def behave(connection: Connection) -> None:
        if connection.number == 1:
            await hang_up_in_the_body(connection)
        else:
            await proper(connection)

    async with bridge(behave, max_connections=1) as (client, server):
        await failure(client)
        assert (await client.post_usage_record(**RECORD)).quantity == 100
        assert server.connections == 2


async def test_no_answer_in_time_is_in_doubt() -> None:
    timeouts = Timeouts(connect=5, pool=5, read=0.05, total=10)
    async with bridge(Connection.until_client_leaves, timeouts=timeouts) as (client, server):
        error = await failure(client)
        assert (error.phase, error.sent) == (FailurePhase.TIMEOUT, True)
        assert len(server.requests) == 1


async def test_an_answer_that_trickles_is_ended_by_the_total_timeout() -> None:
    async def behave(connection: Connection) -> None:
        await connection.send(HEAD + b"Content-Length: 100000\r\n\r\n")
        while True:  # each byte comes in time for `read`
            await connection.send(b" ")
            await asyncio.sleep(0.01)

    timeouts = Timeouts(connect=0.2, pool=0.2, read=0.2, total=0.3)
    async with bridge(behave, timeouts=timeouts, max_connections=1) as (client, server):
        error = await failure(client)
        assert (error.phase, error.sent) == (FailurePhase.TIMEOUT, True)
        await eventually(lambda: server.open == 0)


async def test_a_cancelled_call_frees_its_connection() -> None:
    async def behave(connection: Connection) -> None:
        if connection.number == 1:
            await connection.until_client_leaves()
        else:
            await proper(connection)

    async with bridge(behave, max_connections=1) as (client, server):
        call = asyncio.create_task(client.post_usage_record(**RECORD))
        await eventually(lambda: len(server.requests) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await client.post_usage_record(**RECORD)).quantity == 100


async def test_an_idle_connection_that_the_server_closed_is_not_used_again() -> None:
    async def behave(connection: Connection) -> None:
        await proper(connection)
        connection.hang_up()

    async with bridge(behave, max_connections=1) as (client, server):
        await client.post_usage_record(**RECORD)
        await eventually(lambda: server.open == 0)
        await asyncio.sleep(0)  # the loop hands the closing to the pool
        try:
            await client.post_usage_record(**RECORD)
        except StripeUnreachable as error:
            # The pool has not seen it yet: whether the request was read, nobody knows.
            assert error.sent  # noqa: PT017 - either outcome is right, but no third
        else:
            assert server.connections == 2


async def test_a_post_on_a_connection_that_dies_meanwhile_is_in_doubt_and_not_repeated() -> None:
    async def behave(connection: Connection) -> None:
        if len(server.requests) == 1:
            await proper(connection)
        else:
            connection.reset()

    async with bridge(behave, max_connections=1) as (client, server):
        await client.post_usage_record(**RECORD)
        error = await failure(client)
        assert error.sent
        assert (server.connections, len(server.requests)) == (1, 2)
