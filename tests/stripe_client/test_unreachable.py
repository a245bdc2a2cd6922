"""Each exception of httpx and aiohttp is known: may a request have left before it?"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import aiohttp
import httpx
import pytest
import respx
from aiohttp import client_exceptions
from aiohttp.http_exceptions import BadStatusLine, TransferEncodingError

from app.stripe_client import FailurePhase, StripeClient, StripeUnreachable
from app.stripe_client.unreachable import FAILURES, TRANSPORT_FAILURES, failure_of
from tests.stripe_client.conftest import API_KEY


def family(root: type[BaseException]) -> Iterator[type[BaseException]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


HTTPX = sorted(
    {
        error
        for root in (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError)
        for error in family(root)
        if error.__module__.startswith("httpx")
    },
    key=lambda error: error.__name__,
)
AIOHTTP = sorted(
    {error for error in family(aiohttp.ClientError) if error.__module__.startswith("aiohttp")},
    key=lambda error: error.__name__,
)

# Raised only before the first byte of a request can leave.
NEVER_SENT = {
    "ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "InvalidURL",
    "ClientConnectorError", "ClientConnectorDNSError", "ClientConnectorSSLError",
    "ClientConnectorCertificateError", "ClientSSLError", "ClientProxyConnectionError",
    "UnixClientConnectorError", "ConnectionTimeoutError", "ServerFingerprintMismatch",
    "ClientHttpProxyError", "InvalidUrlClientError", "NonHttpUrlClientError",
    "InvalidUrlRedirectClientError", "NonHttpUrlRedirectClientError",
}  # fmt: skip


def blank(error: type[BaseException]) -> BaseException:
    """An instance without calling a constructor: they all want other arguments."""
    return error.__new__(error)


def test_the_families_are_whole() -> None:
    assert {"ReadError", "StreamClosed", "CookieConflict"} <= {error.__name__ for error in HTTPX}
    assert len(HTTPX) >= 25
    assert {"ServerDisconnectedError", "ClientPayloadError"} <= {e.__name__ for e in AIOHTTP}
    exported = {getattr(client_exceptions, name) for name in client_exceptions.__all__}
    assert {error for error in exported if issubclass(error, Exception)} - set(AIOHTTP) <= {
        client_exceptions.WSMessageTypeError  # a TypeError, of web sockets only
    }


@pytest.mark.parametrize("error", [*HTTPX, *AIOHTTP])
def test_no_exception_is_unmapped(error: type[BaseException]) -> None:
    assert issubclass(error, TRANSPORT_FAILURES)
    failure = failure_of(blank(error))
    assert failure is not None
    assert failure.sent is (error.__name__ not in NEVER_SENT)


def test_every_row_of_the_table_is_caught() -> None:
    assert all(issubclass(error, TRANSPORT_FAILURES) for error, _ in FAILURES)


def test_what_is_caught_is_in_the_table() -> None:
    assert all(failure_of(blank(error)) is not None for error in TRANSPORT_FAILURES)


@pytest.mark.parametrize(
    ("cause", "phase", "sent"),
    [
        (aiohttp.ServerDisconnectedError(), FailurePhase.EXCHANGE, True),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), FailurePhase.EXCHANGE, True),
        (aiohttp.ClientConnectionResetError("closing"), FailurePhase.EXCHANGE, True),
        (aiohttp.ConnectionTimeoutError("to host"), FailurePhase.CONNECT, False),
        (
            aiohttp.ClientConnectorError(Mock(), OSError(111, "Connection refused")),
            FailurePhase.CONNECT,
            False,
        ),
        (aiohttp.SocketTimeoutError("reading"), FailurePhase.TIMEOUT, True),
    ],
)
def test_the_transports_word_connect_timeout_is_not_believed(
    cause: aiohttp.ClientError, phase: FailurePhase, sent: bool
) -> None:
    # httpx-aiohttp calls all of these ConnectTimeout (or a close relative).
    error = httpx.ConnectTimeout("as mapped by the transport")
    error.__cause__ = cause
    failure = failure_of(error)
    assert failure is not None
    assert (failure.phase, failure.sent) == (phase, sent)


@pytest.mark.parametrize(
    ("error", "phase", "sent"),
    [
        (httpx.ConnectError("refused"), FailurePhase.CONNECT, False),
        (httpx.ConnectTimeout("late"), FailurePhase.CONNECT, False),
        (httpx.PoolTimeout("late"), FailurePhase.CONNECT, False),
        (httpx.ReadTimeout("late"), FailurePhase.TIMEOUT, True),
        (httpx.WriteError("broken pipe"), FailurePhase.EXCHANGE, True),
        (httpx.RemoteProtocolError("garbage"), FailurePhase.PROTOCOL, True),
        (httpx.DecodingError("gzip"), FailurePhase.PROTOCOL, True),
        (BadStatusLine("??"), FailurePhase.PROTOCOL, True),
        (TransferEncodingError("??"), FailurePhase.PROTOCOL, True),
        (ConnectionResetError("reset"), FailurePhase.EXCHANGE, True),
        (TimeoutError(), FailurePhase.TIMEOUT, True),
        (RuntimeError("Session is closed"), FailurePhase.EXCHANGE, True),
    ],
)
async def test_the_client_raises_its_own_error_for_each(
    client: StripeClient,
    stripe_api: respx.MockRouter,
    error: Exception,
    phase: FailurePhase,
    sent: bool,
) -> None:
    stripe_api.get("/v1/customers/cus_1").mock(side_effect=error)
    with pytest.raises(StripeUnreachable) as caught:
        await client.customer("cus_1")
    assert (caught.value.phase, caught.value.sent, caught.value.in_doubt) == (phase, sent, sent)
    assert type(error).__name__ in str(caught.value)


async def test_the_foreign_exception_is_not_carried_along(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    request: Any = Mock(headers={"Authorization": f"Bearer {API_KEY}"})
    leak = aiohttp.ClientResponseError(request, (), message=f"Bearer {API_KEY}")
    stripe_api.get("/v1/customers/cus_1").mock(side_effect=leak)
    with pytest.raises(StripeUnreachable) as caught:
        await client.customer("cus_1")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert API_KEY not in str(caught.value)


async def test_a_closed_client_sends_nothing(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    await client.aclose()
    with pytest.raises(StripeUnreachable) as caught:
        await client.customer("cus_1")
    assert not caught.value.sent
    assert not stripe_api.calls
