"""The idempotency layer: one key, one execution, the same answer again for 24 hours."""

from dataclasses import dataclass
from hashlib import blake2b

from app.sandbox.errors import (
    key_in_use,
    key_too_long,
    key_with_other_endpoint,
    key_with_other_parameters,
)
from app.sandbox.form import Parameters, canonical
from app.sandbox.wire import Answer

RETENTION_SECONDS = 24 * 3600
_LONGEST = 255


def fingerprint(method: str, path: str, parameters: Parameters) -> bytes:
    """What a key is bound to: 16 bytes that stand for method, path and parameters."""
    digest = blake2b(f"{method} {path}".encode(), digest_size=16)
    for name, value in canonical(parameters):
        # Lengths keep a=1&b=2 and a="1&b=2" apart.
        digest.update(f"\n{len(name)}:{name}{len(value)}:{value}".encode())
    return digest.digest()


@dataclass(slots=True)
class KeyedRequest:
    """The first request with a key; `answer` is None while it is in flight."""

    scope: tuple[str, str]
    fingerprint: bytes
    path: str
    request_id: str
    at: int
    answer: Answer | None = None


class IdempotencyKeys:
    """Keys by account and key, oldest first."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], KeyedRequest] = {}

    def begin(
        self, *, account: str, key: str, path: str, bound_to: bytes, request_id: str, now: int
    ) -> KeyedRequest:
        """The first request with this key: a new one to be executed, or one with its answer.

        Raises StripeError: 400 for a key that is too long or was used for another request, 409
        while the first request is in flight.
        """
        if len(key) > _LONGEST:
            raise key_too_long(len(key))
        self._forget_before(now - RETENTION_SECONDS)
        scope = (account, key)
        first = self._requests.get(scope)
        if first is None:
            first = KeyedRequest(scope, bound_to, path, request_id, now)
            self._requests[scope] = first
            return first
        if first.path != path:
            raise key_with_other_endpoint(key, path, first.path)
        if first.fingerprint != bound_to:
            raise key_with_other_parameters(key)
        if first.answer is None:
            raise key_in_use(key)
        return first

    def forget(self, request: KeyedRequest) -> None:
        """Nothing was executed: the key is free again."""
        if self._requests.get(request.scope) is request:
            del self._requests[request.scope]

    def _forget_before(self, at: int) -> None:
        # Insertion order is time order, so the old ones are at the front.
        while self._requests:
            oldest = next(iter(self._requests.values()))
            if oldest.at > at or oldest.answer is None:
                return
            del self._requests[oldest.scope]
