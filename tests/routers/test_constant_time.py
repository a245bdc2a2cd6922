"""How long a refusal takes tells nothing of a secret: each one is compared, whichever matches."""

import hmac
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import Unauthorized
from app.openmeter.signature import SignatureInvalid, WebhookVerifier
from app.routers.access import admit
from tests.routers.webhook_sender import KEY, SECRET, signed

OTHERS = ["whsec_" + letter * 32 for letter in "ABC"]
TOKENS = ["a-token-of-the-tests", "another-token-of-the-tests", "a-third-token-of-the-tests"]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `hmac.compare_digest` was asked."""
    asked: list[Any] = []
    real = hmac.compare_digest

    def compare(left: Any, right: Any) -> bool:
        asked.append(right)
        return real(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    return asked


@pytest.mark.parametrize("position", [0, 1, 3])
def test_every_webhook_secret_is_compared(compared: list[Any], position: int) -> None:
    secrets = [*OTHERS[:position], SECRET, *OTHERS[position:]]
    WebhookVerifier(secrets).verify(b"{}", signed(b"{}", key=KEY))
    assert len(compared) == len(secrets)


def test_every_webhook_secret_is_compared_where_none_matches(compared: list[Any]) -> None:
    with pytest.raises(SignatureInvalid):
        WebhookVerifier(OTHERS).verify(b"{}", signed(b"{}", key=KEY))
    assert len(compared) == len(OTHERS)


class _Token(str):
    def get_secret_value(self) -> str:
        return str(self)


@pytest.mark.parametrize("given", [*TOKENS, "wrong"])
def test_every_admin_token_is_compared(compared: list[Any], given: str) -> None:
    built: Any = SimpleNamespace(
        settings=SimpleNamespace(admin_tokens=tuple(_Token(token) for token in TOKENS))
    )
    header = f"Bearer {given}".encode()
    if given == "wrong":
        with pytest.raises(Unauthorized):
            admit(built, header)
    else:
        admit(built, header)
    assert compared == [token.encode() for token in TOKENS]
