"""The one place where the exceptions of httpx and aiohttp become `StripeUnreachable`.

The transport underneath (httpx-aiohttp 0.2) reports a server that hung up after it had the
request, and a connection reset, as `httpx.ConnectTimeout`. Taken at its word, "never connected"
would have a record that Stripe has executed sent anew as if it had not been. So the cause decides:
only what cannot happen after the request began to leave is `sent=False`.
"""

from dataclasses import dataclass

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError

from app.stripe_client.errors import FailurePhase, StripeUnreachable
from app.stripe_client.redaction import presentable

# HttpProcessingError (aiohttp's parser) and RuntimeError (a session closed under a running request;
# uvloop, of a write to a socket that has just died) leak through the transport as they are.
TRANSPORT_FAILURES: tuple[type[Exception], ...] = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.CookieConflict,
    aiohttp.ClientError,
    HttpProcessingError,
    RuntimeError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a class of exceptions says of the exchange."""

    phase: FailurePhase
    sent: bool


_NEVER_SENT = Failure(FailurePhase.CONNECT, sent=False)
_CUT = Failure(FailurePhase.EXCHANGE, sent=True)
_LATE = Failure(FailurePhase.TIMEOUT, sent=True)
_GARBAGE = Failure(FailurePhase.PROTOCOL, sent=True)

# The first class that fits decides, so the narrow ones stand first.
FAILURES: tuple[tuple[type[Exception], Failure], ...] = (
    # aiohttp: DNS, TCP and TLS failures; no free or new connection in time; a URL nobody can call
    (aiohttp.ClientConnectorError, _NEVER_SENT),
    (aiohttp.ConnectionTimeoutError, _NEVER_SENT),
    (aiohttp.ServerFingerprintMismatch, _NEVER_SENT),
    (aiohttp.ClientHttpProxyError, _NEVER_SENT),
    (aiohttp.InvalidURL, _NEVER_SENT),
    (aiohttp.NonHttpUrlClientError, _NEVER_SENT),
    # aiohttp: everything after
    (aiohttp.ServerTimeoutError, _LATE),
    (aiohttp.ClientResponseError, _GARBAGE),
    (HttpProcessingError, _GARBAGE),
    (aiohttp.ClientError, _CUT),
    # httpx, when no aiohttp is behind it (mocks, its own transport)
    (httpx.ConnectError, _NEVER_SENT),
    (httpx.ConnectTimeout, _NEVER_SENT),
    (httpx.PoolTimeout, _NEVER_SENT),
    (httpx.UnsupportedProtocol, _NEVER_SENT),
    (httpx.InvalidURL, _NEVER_SENT),
    (httpx.TimeoutException, _LATE),
    (httpx.ProtocolError, _GARBAGE),
    (httpx.DecodingError, _GARBAGE),
    (httpx.TooManyRedirects, _GARBAGE),
    (httpx.HTTPError, _CUT),
    (httpx.StreamError, _CUT),
    (httpx.CookieConflict, _CUT),
    # Python: the total timeout, a socket's error, a session closed under the request
    (TimeoutError, _LATE),
    (OSError, _CUT),
    (RuntimeError, _CUT),
)


def failure_of(error: BaseException) -> Failure | None:
    """What the exception says of the exchange; `None` when no row knows it."""
    origin = _origin(error)
    return next((failure for known, failure in FAILURES if isinstance(origin, known)), None)


def _origin(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error


def unreachable(error: Exception, *, secret: str) -> StripeUnreachable:
    """The error as this package reports it, without the foreign exception (it holds headers)."""
    failure = failure_of(error) or _CUT
    origin = _origin(error)
    said = presentable(str(origin), secret)
    name = type(origin).__name__
    return StripeUnreachable(
        f"{name}: {said}" if said else name, phase=failure.phase, sent=failure.sent
    )
