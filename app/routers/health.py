"""Health: alive, ready to receive, and ready in whole. Health by doing: what is checked is done."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app.bootstrap import Services
from app.errors import DatabaseUnavailable
from app.health import Check, Health
from app.routers.access import Built

router = APIRouter(tags=["Health"])
# A database that hangs must not hang the probe: Kubernetes asks every few seconds.
CHECK_TIMEOUT = 3.0


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class CheckResult(BaseModel):
    """One check of readiness."""

    name: str = Field(examples=["database"])
    ok: bool
    detail: str = Field(examples=["written and read"])


class Readiness(BaseModel):
    """All checks; `failing` names those that are not met."""

    status: Literal["ready", "not ready"]
    failing: list[str]
    checks: list[CheckResult]
    oldest_unsent: datetime | None = Field(
        description="Since when the oldest record waits to be sent; null if none does, and always "
        "null where only receiving is looked at."
    )
    oldest_unsent_seconds: int | None = Field(description="The same as an age.")


def _workers(built: Services) -> Check:
    workshop = built.workshop
    troubles = workshop.supervisor.troubles() if workshop else {}
    detail = "none in this process" if workshop is None else "no trouble"
    if troubles:
        named = ", ".join(f"{name}: {error}" for name, error in troubles.items())
        detail = f"{named}; see the log"
    return Check("workers", ok=not troubles, detail=detail, receiving=False)


@router.get("/healthz", summary="Is the process alive")
async def healthz() -> Alive:
    """Answers without looking at anything else: restart the process only when this fails."""
    return Alive()


@router.get(
    "/readyz",
    summary="Is everything in order",
    responses={503: {"model": Readiness, "description": "A check failed; `failing` names it."}},
)
async def readyz(built: Built, response: Response) -> Readiness:
    """Database written and read, schema not behind, signing secret set, line to Stripe not
    stopped, nothing unbooked or unsent for long, nothing that booking gave up on, booking and
    sending at work. For alerting; route traffic by `/readyz/receive`."""
    return await _answer(built, response, receiving_only=False)


@router.get(
    "/readyz/receive",
    summary="Can webhooks be received",
    responses={503: {"model": Readiness, "description": "A check failed; `failing` names it."}},
)
async def readyz_receive(built: Built, response: Response) -> Readiness:
    """What receiving needs, and only that: it goes on while Stripe is down."""
    return await _answer(built, response, receiving_only=True)


async def _answer(built: Built, response: Response, *, receiving_only: bool) -> Readiness:
    health = Health(built.engine, built.replica, built.schema)
    now = built.clock.now()
    try:
        found, oldest = await built.checks.of(
            health, now, receiving_only=receiving_only, seconds=CHECK_TIMEOUT
        )
        checks = list(found)
    except (DatabaseUnavailable, TimeoutError):
        checks, oldest = [Check("database", ok=False, detail="does not answer")], None
    secret = built.verifier is not None
    checks.append(
        Check(
            "signing_secret",
            ok=secret,
            detail="set" if secret else "OPENMETER_WEBHOOK_SECRETS is not set",
        )
    )
    checks.append(_workers(built))
    if receiving_only:
        checks = [check for check in checks if check.receiving]
    failing = [check.name for check in checks if not check.ok]
    if failing:
        response.status_code = 503
    response.headers["Cache-Control"] = "no-store"
    return Readiness(
        status="not ready" if failing else "ready",
        failing=failing,
        checks=[CheckResult(name=c.name, ok=c.ok, detail=c.detail) for c in checks],
        oldest_unsent=oldest,
        oldest_unsent_seconds=int((now - oldest).total_seconds()) if oldest else None,
    )
