"""JSON over loopback, for the demo: no proxy of the environment, no redirects, no keep-alive."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

ANSWER_TIMEOUT = 15.0


class NoAnswer(Exception):
    """Nobody answers there, or not in HTTP."""


class Refused(Exception):
    """An answer that is not 2xx; the message says to what, and begins with the status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"HTTP {status} to {detail}")
        self.status = status


@dataclass(frozen=True, slots=True)
class LocalApi:
    """An API on this machine. `headers` go with every call."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body. Raises NoAnswer."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=ANSWER_TIMEOUT
        )
        try:
            connection.request(method, path, body, {**self.headers, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self.url} does not answer: {error}") from error
        finally:
            connection.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send and receive JSON. Raises Refused for what is not 2xx, and NoAnswer."""
        raw = None if body is None else json.dumps(body).encode()
        headers = {} if raw is None else {"Content-Type": "application/json"}
        status, answer = self.exchange(method, path, raw, headers)
        if not 200 <= status < 300:
            raise Refused(status, f"{method} {path}: {answer[:500].decode(errors='replace')}")
        return json.loads(answer) if answer else None
