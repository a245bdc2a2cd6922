"""One GET to OpenMeter's API: the transport, its limits, and which error an answer is.

httpx on aiohttp's connection pool: httpx's own spends its time scanning itself once some hundred
requests are in flight.
"""

import asyncio
import re
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from app.openmeter.api_errors import (
    TRANSIENT_STATUSES,
    OpenMeterMalformed,
    OpenMeterRefused,
    OpenMeterUnreachable,
    ProblemDocument,
    presentable,
)
from app.openmeter.strict_json import NotStrictJson, read_json

# A month of minutes of one subject is 45,000 rows, below 8 MiB; reading that takes half a second.
LARGEST_BODY = 8 * 1024 * 1024
LONGEST_RETRY_AFTER = 86_400
KEEPALIVE_SECONDS = 15.0
CONNECT_SECONDS = 5.0

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)

# HttpProcessingError (aiohttp's parser) and RuntimeError (a session closed under a running request;
# uvloop, of a write to a socket that has just died) leak through the transport as they are.
_FAILURES: tuple[type[Exception], ...] = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.CookieConflict,
    httpx.StreamError,
    aiohttp.ClientError,
    HttpProcessingError,
    RuntimeError,
    OSError,
)


def open_transport(*, max_connections: int) -> httpx.AsyncBaseTransport:
    """A transport of at most `max_connections` connections; the session opens on first use.

    Neither cookies nor the proxies and .netrc of the environment: a .netrc entry would compete
    with our Authorization header. SSL_CERT_FILE and SSL_CERT_DIR do count.
    """
    tls = httpx.create_ssl_context(trust_env=True)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=max_connections, keepalive_timeout=KEEPALIVE_SECONDS, ssl=tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    return AiohttpTransport(verify=tls, client=session)


class ApiTransport:
    """Sends GETs; raises the package's errors and no others."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None,
        timeout: float,
        user_agent: str,
        transport: httpx.AsyncBaseTransport,
    ) -> None:
        headers = {
            "Accept": "application/json",
            # What is not compressed cannot blow up.
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
        }
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._api_key = api_key
        self._base_url = base_url
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            transport=transport,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def get(self, path: str, query: str = "") -> object:
        """The JSON document at `path`, numbers as `Decimal`. Errors: all of `OpenMeterError`."""
        url = f"{self._base_url}{path}"
        response, body = await self._send(f"{url}?{query}" if query else url)
        if response.status_code != 200:
            raise self._refusal(response, body or b"")
        if body is None:
            raise OpenMeterMalformed(f"the body is over {LARGEST_BODY} bytes")
        try:
            return read_json(body)
        except NotStrictJson as error:
            said = str(error)
        raise OpenMeterMalformed(f"the body {said}")

    async def _send(self, url: str) -> tuple[httpx.Response, bytes | None]:
        if self._http.is_closed:
            raise OpenMeterUnreachable("the client is closed")
        try:
            # httpx knows no total: a body that trickles would never end.
            async with asyncio.timeout(self._timeout):
                response = await self._http.send(self._http.build_request("GET", url), stream=True)
                try:
                    return response, await _bounded_body(response)
                finally:
                    await response.aclose()
        except _FAILURES as error:
            failure = self._unreachable(error)
        # Raised outside the handler, so that not even __context__ leads to the request's headers.
        raise failure

    def _unreachable(self, error: Exception) -> OpenMeterUnreachable:
        # The transport's own names mislead (a reset is a ConnectTimeout to it): the cause counts.
        cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
        name = type(cause).__name__
        said = presentable(str(cause), self._api_key)
        return OpenMeterUnreachable(f"{name}: {said}" if said else name)

    def _refusal(
        self, response: httpx.Response, body: bytes
    ) -> OpenMeterRefused | OpenMeterUnreachable:
        refused = OpenMeterRefused(response.status_code, self._problem(response, body))
        if response.status_code in TRANSIENT_STATUSES or response.status_code >= 500:
            return OpenMeterUnreachable(
                refused.detail, status=refused.status, retry_after=_retry_after(response)
            )
        return refused

    def _problem(self, response: httpx.Response, body: bytes) -> ProblemDocument | None:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/problem+json":
            return None  # a proxy's page
        try:
            document = read_json(body)
        except NotStrictJson:
            return None
        if not isinstance(document, dict):
            return None

        def text(name: str) -> str | None:
            value = document.get(name)
            return presentable(value, self._api_key) or None if isinstance(value, str) else None

        return ProblemDocument(title=text("title"), detail=text("detail"))


def _retry_after(response: httpx.Response) -> int | None:
    raw = response.headers.get("retry-after", "").strip()
    return min(int(raw), LONGEST_RETRY_AFTER) if _SECONDS.fullmatch(raw) else None


async def _bounded_body(response: httpx.Response) -> bytes | None:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)
