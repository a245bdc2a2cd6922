"""Who may call /v1: whoever holds one of the admin tokens."""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from app.bootstrap import Services
from app.errors import NotConfigured, Unauthorized

# Documentation only: `admit` reads the raw header, also before there is a route.
_bearer = HTTPBearer(
    auto_error=False, scheme_name="AdminToken", description="One of the tokens in ADMIN_TOKENS."
)


def services_of(request: Request) -> Services:
    """What the process is made of."""
    built: Services = request.app.state.services
    return built


Built = Annotated[Services, Depends(services_of)]


def admit(built: Services, authorization: bytes) -> None:
    """Judge an `Authorization` header, as raw bytes, or empty where there is none.

    Raises NotConfigured where no tokens are set, Unauthorized for any but those.
    """
    tokens = built.settings.admin_tokens
    if not tokens:
        raise NotConfigured("Set ADMIN_TOKENS to use this route")
    scheme, _, given = authorization.partition(b" ")
    # Every token is compared, each in constant time: how long it takes tells nothing.
    matches = [hmac.compare_digest(given, token.get_secret_value().encode()) for token in tokens]
    if not any(matches) or scheme.lower() != b"bearer":
        raise Unauthorized


def require_admin(
    request: Request, built: Built, _documented: Annotated[object, Depends(_bearer)]
) -> None:
    """Raises NotConfigured where no tokens are set, Unauthorized for any but those."""
    admit(built, dict(request.scope["headers"]).get(b"authorization", b""))
