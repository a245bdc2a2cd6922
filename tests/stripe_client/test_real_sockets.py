"""The client on its real transport against sockets that misbehave."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest

from app.stripe_client import (
    FailurePhase,
    MalformedAnswer,
    StripeAnswered,
    StripeClient,
    StripeUnreachable,
    Timeouts,
)
from tests.stripe_client import bodies
from tests.stripe_client.conftest import API_KEY
from tests.stripe_client.raw_server import Connection, RawServer, raw_server

RECORD: dict[str, Any] = {
    "subscription_item": "si_1",
    "quantity": 100,
    "timestamp": 1_767_229_199,
    "action": "set",
    "idempotency_key": "msg_1:si_1:1",
}
HEAD = b"HTTP/1.1 200 OK\r\nStripe-Version: 2025-02-24.acacia\r\nContent-Type: application/json\r\n"


def client_of(url: str, **settings: Any) -> StripeClient:
    return StripeClient(api_key=API_KEY, base_url=url, **settings)


@asynccontextmanager
async def bridge(
    behave: Callable[[Connection], Any], **settings: Any
) -> AsyncIterator[tuple[StripeClient, RawServer]]:
    async with raw_server(behave) as server, client_of(server.url, **settings) as client:
        yield client, server


async def failure(client: StripeClient) -> StripeUnreachable:
    with pytest.raises(StripeUnreachable) as caught:
        await client.post_usage_record(**RECORD)
    assert API_KEY not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value


async def proper(connection: Connection) -> None:
    await connection.answer(bodies.usage_record())


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a socket's fate has no event
            await asyncio.sleep(0.005)


async def test_what_goes_over_the_wire() -> None:
    async with bridge(proper, account="acct_1") as (client, server):
        answer = await client.post_usage_record(**RECORD)
    assert answer.meta.request_id == "req_1"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in rest]
    names = [name.lower() for name, _ in headers]
    found = {name.lower(): value for name, value in headers}
    assert first == "POST /v1/subscription_items/si_1/usage_records HTTP/1.1"
    assert body == b"quantity=100&timestamp=1767229199&action=set"
    assert len(names) == len(set(names))
    assert found["authorization"] == f"Bearer {API_KEY}"
    assert found["stripe-version"] == "2025-02-24.acacia"
    assert found["stripe-account"] == "acct_1"
    assert found["idempotency-key"] == "msg_1:si_1:1"
    assert found["content-type"] == "application/x-www-form-urlencoded"
    assert found["content-length"] == str(len(body))
    assert found["user-agent"].startswith("meterbridge")
    assert "transfer-encoding" not in found
    assert "cookie" not in found


@pytest.mark.parametrize(
    "identifier",
    ["gold plan", "a%2Fb", "%2e%2e", "100%", "a?b#c&d=e", "größe", "a+b", "~a'(b)*!;:@$,"],
)
async def test_no_layer_turns_an_odd_id_into_another_path(identifier: str) -> None:
    async def behave(connection: Connection) -> None:
        await connection.answer(bodies.price(id=identifier))

    async with bridge(behave) as (client, server):
        assert (await client.price(identifier)).id == identifier
    segment = server.requests[0].split(b" ")[1].decode().removeprefix("/v1/prices/")
    assert not set("/?#") & set(segment)
    assert unquote(segment) == identifier


async def test_odd_ids_in_a_query_arrive_as_they_are() -> None:
    async def behave(connection: Connection) -> None:
        await connection.answer(bodies.listing([]))

    async with bridge(behave) as (client, server):
        await client.subscriptions(customer="a&b=c d%20+é", status="all")
    _, query = server.requests[0].split(b" ")[1].decode().split("?")
    assert parse_qsl(query) == [("customer", "a&b=c d%20+é"), ("status", "all"), ("limit", "100")]


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


async def test_a_connection_is_kept_alive_after_answers_and_errors() -> None:
    async def behave(connection: Connection) -> None:
        if b"si_gone" in server.requests[-1]:
            await connection.answer({"error": {"type": "x"}}, status="400 Bad Request")
        else:
            await proper(connection)

    async with bridge(behave) as (client, server):
        for item in ("si_1", "si_gone", "si_1"):
            try:
                await client.post_usage_record(**{**RECORD, "subscription_item": item})
            except StripeAnswered as error:
                assert item == "si_gone", error  # noqa: PT017 - the other two must not raise
        assert len(server.requests) == 3
        assert server.connections == 1


async def test_no_more_connections_than_allowed_are_opened() -> None:
    async with bridge(proper, max_connections=3) as (client, server):
        await asyncio.gather(*(client.post_usage_record(**RECORD) for _ in range(40)))
        assert len(server.requests) == 40
        assert server.connections <= 3


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


async def test_cookies_are_not_kept() -> None:
    async def behave(connection: Connection) -> None:
        await connection.answer(bodies.usage_record(), more=b"Set-Cookie: a=b; Path=/\r\n")

    async with bridge(behave) as (client, server):
        await client.post_usage_record(**RECORD)
        await client.post_usage_record(**RECORD)
    assert len(server.requests) == 2
    assert not any(b"\r\ncookie:" in request.lower() for request in server.requests)


async def test_a_redirect_is_not_followed() -> None:
    async with raw_server(proper) as elsewhere:

        async def behave(connection: Connection) -> None:
            location = f"Location: {elsewhere.url}/v1/x\r\n".encode()
            await connection.answer({}, status="307 Temporary Redirect", more=location)

        async with bridge(behave) as (client, _):
            with pytest.raises(StripeAnswered) as caught:
                await client.post_usage_record(**RECORD)
        assert caught.value.meta.status == 307
        assert elsewhere.requests == []


async def test_a_body_without_end_is_cut_off() -> None:
    async def behave(connection: Connection) -> None:
        await connection.send(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        while True:
            await connection.send(b" " * 65536)

    async with bridge(behave, max_connections=1) as (client, server):
        with pytest.raises(MalformedAnswer, match="over"):
            await client.post_usage_record(**RECORD)
        await eventually(lambda: server.open == 0)


async def test_the_environments_proxies_and_netrc_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with bridge(proper) as (client, server):
        await client.post_usage_record(**RECORD)
    assert f"Bearer {API_KEY}".encode() in server.requests[0]


def test_tls_certificates_are_verified() -> None:
    client = StripeClient(api_key=API_KEY)
    transport = client._exchange._http._transport
    context = transport.ssl_context  # type: ignore[attr-defined]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize(
    "timeouts",
    [
        {"connect": 0},
        {"connect": 11},
        {"pool": 31},
        {"read": 31},
        {"read": 0},
        {"total": float("nan")},
    ],
)
def test_timeouts_that_cannot_work_are_refused(timeouts: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="timeouts"):
        Timeouts(**timeouts)
