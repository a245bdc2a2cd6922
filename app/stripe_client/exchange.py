"""One request to Stripe and its answer: headers, limits, and which error an answer is."""

import asyncio
import json
from collections.abc import AsyncIterable
from functools import lru_cache

import httpx

from app.stripe_client.error_table import classify
from app.stripe_client.errors import (
    FailurePhase,
    MalformedAnswer,
    StripeAnswered,
    StripeUnreachable,
    VersionMismatch,
)
from app.stripe_client.members import Members, parse_object
from app.stripe_client.meta import AnswerMeta, read_meta
from app.stripe_client.problems import ErrorAnswer
from app.stripe_client.redaction import presentable
from app.stripe_client.transport import Timeouts
from app.stripe_client.unreachable import TRANSPORT_FAILURES, unreachable

# The last version that has usage records; 2025-03-31.basil removed them.
STRIPE_VERSION = "2025-02-24.acacia"

IDEMPOTENCY_KEY = "Idempotency-Key"
"""Of a request; Stripe repeats it in the answer."""

# The largest page, a hundred subscriptions with ten items each, stays below 3 MiB.
LARGEST_BODY = 4 * 1024 * 1024

# Parsing a URL takes a tenth of a call, and an item is written to again and again: 3 MB at most.
URLS_KEPT = 4096


class HttpExchange:
    """Sends requests with the pinned version; raises the package's errors and no others.

    It asks the transport itself: cookies, redirects, proxies and authentication flows are what an
    `httpx.AsyncClient` adds, none of which Stripe's API has, and half of the time of a call.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        account: str | None,
        user_agent: str,
        timeouts: Timeouts,
        transport: httpx.AsyncBaseTransport,
    ) -> None:
        read = {
            "Authorization": f"Bearer {api_key}",
            "Stripe-Version": STRIPE_VERSION,
            "User-Agent": user_agent,
            "Accept": "application/json",
            # Answers are small; what is not compressed cannot blow up.
            "Accept-Encoding": "identity",
        }
        if account is not None:
            read["Stripe-Account"] = account
        write = read | {"Content-Type": "application/x-www-form-urlencoded"}
        self._read_headers = httpx.Headers(read)
        self._write_headers = httpx.Headers(write)
        self._url = lru_cache(maxsize=URLS_KEPT)(httpx.URL)
        self._api_key = api_key
        self._base_url = base_url
        self._total = timeouts.total
        self._extensions = {"timeout": timeouts.of_httpx().as_dict()}
        self._transport = transport
        self._closed = False

    async def aclose(self) -> None:
        """Close all connections."""
        self._closed = True
        await self._transport.aclose()

    async def get(self, path: str, query: str = "") -> Members:
        """The object at `path`. Errors: the whole tree of `StripeError`."""
        url = f"{self._base_url}{path}"
        return await self._call("GET", f"{url}?{query}" if query else url)

    async def post(self, path: str, form: str, *, idempotency_key: str) -> Members:
        """The object that posting `form` gave. Errors: the whole tree of `StripeError`."""
        url = f"{self._base_url}{path}"
        return await self._call("POST", url, form.encode("ascii"), key=idempotency_key)

    async def _call(
        self, method: str, url: str, content: bytes = b"", *, key: str | None = None
    ) -> Members:
        response, body = await self._send(method, url, content, key)
        answered = _by_name(response.headers)
        meta = read_meta(response.status_code, answered)
        # An answer that came twice is what the next request on its connection reads first: seen
        # with a stale refusal, by which a record that Stripe had just taken would go elsewhere.
        if answered.get(IDEMPOTENCY_KEY.lower(), key) != key:
            raise MalformedAnswer("it is to another request", meta=meta)
        if not 200 <= meta.status < 300:
            raise self._refusal(body, meta)
        if meta.status != 200:
            raise MalformedAnswer(f"HTTP {meta.status} instead of 200", meta=meta)
        if meta.stripe_version != STRIPE_VERSION:
            raise VersionMismatch(STRIPE_VERSION, meta=meta)
        if body is None:
            raise MalformedAnswer(f"the body is over {LARGEST_BODY} bytes", meta=meta)
        return parse_object(body, meta)

    async def _send(
        self, method: str, url: str, content: bytes, key: str | None
    ) -> tuple[httpx.Response, bytes | None]:
        if self._closed:
            raise StripeUnreachable("the client is closed", phase=FailurePhase.CONNECT, sent=False)
        try:
            async with asyncio.timeout(self._total):
                request = self._request(method, self._url(url), content, key)
                response = await self._transport.handle_async_request(request)
                try:
                    return response, await _bounded_body(response)
                finally:
                    await response.aclose()
        except TRANSPORT_FAILURES as error:
            failure = unreachable(error, secret=self._api_key)
        # Raised outside the handler, so that not even __context__ leads to the request's headers.
        raise failure

    def _request(
        self, method: str, url: httpx.URL, content: bytes, key: str | None
    ) -> httpx.Request:
        # A stream that is read at once, and headers that need no search for their encoding: 10 us
        # instead of 100. Host and Content-Length are aiohttp's to write.
        request = httpx.Request(
            method,
            url,
            headers=self._read_headers if key is None else self._write_headers,
            stream=httpx.ByteStream(content),
            extensions=self._extensions,
        )
        request.read()
        if key is not None:
            request.headers[IDEMPOTENCY_KEY] = key
        request.headers.encoding = "ascii"
        return request

    def _refusal(self, body: bytes | None, meta: AnswerMeta) -> StripeAnswered:
        answer = _error_answer(body or b"", meta, self._api_key)
        return StripeAnswered(classify(answer), answer, meta)


def _by_name(headers: httpx.Headers) -> dict[str, str]:
    """The headers by their names in lower case: `httpx.Headers` searches all of them each time."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _bounded_body(response: httpx.Response) -> bytes | None:
    chunks: AsyncIterable[bytes] = response.aiter_bytes()
    # httpx's decoders take 30 us also for what is not encoded, as we ask for it.
    if "content-encoding" not in response.headers and isinstance(
        response.stream, httpx.AsyncByteStream
    ):
        chunks = response.stream
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def _error_answer(body: bytes, meta: AnswerMeta, secret: str) -> ErrorAnswer:
    """The error in a body, as far as there is one: a gateway answers in HTML."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    error = document.get("error") if isinstance(document, dict) else None
    fields = error if isinstance(error, dict) else {}

    def text(name: str) -> str | None:
        value = fields.get(name)
        return presentable(value, secret) or None if isinstance(value, str) else None

    return ErrorAnswer(
        status=meta.status,
        type=text("type"),
        code=text("code"),
        param=text("param"),
        message=text("message"),
        rate_limited_reason=meta.rate_limited_reason,
    )
