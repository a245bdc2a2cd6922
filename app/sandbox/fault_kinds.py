"""The kinds of faults that can be injected, as the control API takes them."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.sandbox.operations import Operation


class FaultModel(BaseModel):
    """What the parts of a fault share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(FaultModel):
    """Which requests a fault meets: all conditions that are given must hold."""

    operation: Operation | None = None
    object_id: str | None = Field(None, description="The id in the path, for example an item's")
    subscription: str | None = Field(
        None, description="The subscription in the path, or of the item in the path"
    )
    idempotency_key: str | None = None


class Fault(FaultModel):
    """What every fault has."""

    match: Match = Match()
    times: int | None = Field(1, ge=1, description="How many matches it meets; null is all")
    skip: int = Field(0, ge=0, description="How many matches pass unharmed first")
    probability: float = Field(1.0, gt=0, le=1, description="Of meeting a match, by `seed`")
    seed: int = 0


class LatencyPhase(StrEnum):
    """Where the time goes."""

    ARRIVAL = "arrival"  # before Stripe sees the request: no lock, no idempotency key
    EXECUTION = "execution"  # being executed: subscription locked, idempotency key in flight
    ANSWER = "answer"  # executed, and the answer stored: only its way back is slow


class Latency(Fault):
    """The request takes longer."""

    kind: Literal["latency"]
    ms: int = Field(ge=0, le=600_000)
    phase: LatencyPhase = LatencyPhase.EXECUTION


class ErrorMembers(FaultModel):
    """The `error` object of an answer."""

    type: str = "api_error"
    code: str | None = None
    message: str = "An unknown error occurred."
    param: str | None = None


class Status(Fault):
    """An answer that is made up: nothing is executed, nothing stored."""

    kind: Literal["status"]
    status: int = Field(ge=200, le=599)
    error: ErrorMembers = ErrorMembers()
    body: str | None = Field(None, description="In place of `error`, for example a proxy's HTML")
    content_type: str = "application/json"
    retry_after: int | str | None = None


class StoredError(Fault):
    """A 5xx that is stored under the idempotency key and replayed for 24 hours."""

    kind: Literal["stored_error"]
    status: int = Field(500, ge=500, le=599)
    executed: bool = Field(default=False, description="Whether the write was done nevertheless")
    retry_after: int | str | None = None


class CutMoment(StrEnum):
    """When the connection ends."""

    BEFORE_EXECUTION = "before_execution"
    AFTER_EXECUTION = "after_execution"
    MID_ANSWER = "mid_answer"  # executed, headers and half the body sent


class Cut(Fault):
    """The connection ends without a whole answer."""

    kind: Literal["cut"]
    when: CutMoment
    reset: bool = Field(default=False, description="By RST in place of FIN")


class RateLimitReason(StrEnum):
    """Stripe's limiters."""

    GLOBAL_RATE = "global-rate"
    GLOBAL_CONCURRENCY = "global-concurrency"
    ENDPOINT_RATE = "endpoint-rate"
    ENDPOINT_CONCURRENCY = "endpoint-concurrency"
    RESOURCE_SPECIFIC = "resource-specific"


class RateLimited(Fault):
    """A 429 of a limiter: nothing executed or stored."""

    kind: Literal["rate_limited"]
    reason: RateLimitReason = RateLimitReason.ENDPOINT_RATE
    retry_after: int | str | None = None


class LockTimeout(Fault):
    """A 429 because another write holds the object: nothing executed or stored."""

    kind: Literal["lock_timeout"]


class KeyInUse(Fault):
    """A 409 because the first request with the key is in flight: nothing executed or stored."""

    kind: Literal["key_in_use"]


class Garbage(Fault):
    """Executed and stored as ever, but the answer's body is something else."""

    kind: Literal["garbage"]
    body: str = "<html><body>upstream"
    status: int | None = Field(None, ge=200, le=599, description="The real one when left out")
    content_type: str = "application/json"


class VersionEcho(Fault):
    """Executed as ever, but the answer names another version, or none."""

    kind: Literal["version_echo"]
    version: str | None = None


class DuplicateAnswer(Fault):
    """Answered twice on one connection: the copy is what its next request may take for its own."""

    kind: Literal["duplicate_answer"]
    delay_ms: int = Field(0, ge=0, le=60_000, description="How long after the answer")


class AnswerHeaders(Fault):
    """Executed as ever, but with other headers."""

    kind: Literal["headers"]
    headers: dict[str, str | None] = Field(
        description="Headers to set; null takes one away", examples=[{"Request-Id": None}]
    )


AnyFault = Annotated[
    Latency
    | Status
    | StoredError
    | Cut
    | RateLimited
    | LockTimeout
    | KeyInUse
    | Garbage
    | VersionEcho
    | DuplicateAnswer
    | AnswerHeaders,
    Field(discriminator="kind"),
]


class MetRequest(FaultModel):
    """A request that a fault met: what faults match on."""

    operation: Operation
    object_id: str | None
    subscription: str | None
    idempotency_key: str | None


class ActiveFault(FaultModel):
    """An injected fault and what it has met so far."""

    id: str
    fault: AnyFault
    matched: int = Field(description="Requests that matched, those that passed unharmed included")
    met: int = Field(description="Requests that it met")
    last_met: MetRequest | None = Field(None, description="The newest of them")
