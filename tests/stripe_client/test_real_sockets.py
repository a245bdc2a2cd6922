"""The client on its real transport: the wire, the pool, and what it must not do."""

import asyncio
import ssl
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest

from app.stripe_client import MalformedAnswer, StripeAnswered, StripeClient
from tests.stripe_client import bodies
from tests.stripe_client.bodies import RECORD
from tests.stripe_client.conftest import API_KEY
from tests.stripe_client.raw_server import (
    HEAD,
    Connection,
    bridge,
    client_of,
    eventually,
    proper,
    raw_server,
)


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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # aiohttp keeps none of an address
async def test_cookies_are_not_kept(host: str) -> None:
    async def behave(connection: Connection) -> None:
        await connection.answer(bodies.usage_record(), more=b"Set-Cookie: a=b; Path=/\r\n")

    async with raw_server(behave) as server:
        async with client_of(server.url.replace("127.0.0.1", host)) as client:
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
    transport = client._exchange._transport
    context = transport.ssl_context  # type: ignore[attr-defined]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
