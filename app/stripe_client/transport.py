"""The HTTP transport: httpx on aiohttp's connection pool.

httpx's own pool spends its time scanning itself with many requests in flight: at 128, 49 requests/s
at 20 ms of CPU each; on aiohttp's pool 3,289 at 0.3 ms. A slow moment at Stripe puts that many in
flight.
"""

from dataclasses import dataclass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `total` bounds one attempt from the first byte out to the last byte in.

    `pool` bounds the wait for a free connection together with opening a new one (so in aiohttp),
    hence not below `connect`. There is no timeout for writing in aiohttp; `total` covers it.
    """

    connect: float = 5.0
    read: float = 20.0
    pool: float = 10.0
    total: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.connect <= self.pool <= self.total or not 0 < self.read <= self.total:
            raise ValueError(
                "timeouts must be positive, connect <= pool <= total, and read <= total"
            )

    def of_httpx(self) -> httpx.Timeout:
        """The same for httpx, which knows no total."""
        return httpx.Timeout(connect=self.connect, read=self.read, write=self.read, pool=self.pool)


# Below what load balancers usually keep (60 s and more), so that it is we who close an idle
# connection: a POST on one that the server has just closed ends in doubt.
KEEPALIVE_SECONDS = 15.0


def open_transport(*, max_connections: int) -> httpx.AsyncBaseTransport:
    """A transport of at most `max_connections` connections; the session opens on first use.

    Give it as many as calls can be in flight: who waits for one is passed by whoever comes when one
    is free (seen: 10 s, and so `pool`, with 64 callers on 16).

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
