"""How strict and how slow the sandbox is. Read and changed through the control API."""

from pydantic import BaseModel, ConfigDict, Field

ACACIA = "2025-02-24.acacia"


class Settings(BaseModel):
    """Every setting has the value of an ordinary Stripe sandbox account until it is changed."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    limit_per_second: int = Field(
        25, ge=0, description="Calls a second of each operation, whatever the id; 0 is no limit"
    )
    global_limit_per_second: int = Field(
        0, ge=0, description="Calls a second of all operations together; 0 is no limit"
    )
    grace_seconds: int = Field(
        0,
        ge=0,
        le=86_400,
        description="How long after its end a period still takes usage, for `sum` prices only. "
        "Stripe grants a few unstated minutes and says not to rely on them: the default is none",
    )
    future_tolerance_seconds: int = Field(
        0, ge=0, le=86_400, description="How far in the future a usage timestamp may lie"
    )
    write_latency_ms: int = Field(
        0, ge=0, description="How long each write takes; it holds its subscription's lock so long"
    )
    read_latency_ms: int = Field(0, ge=0, description="How long each read takes")
    store_refusals: bool = Field(
        default=True,
        description="Whether a refusal made while executing (period closed, item ended, unknown "
        "id) is stored under the idempotency key, as Stripe documents. Validation failures never",
    )
    ledger_keeps: int = Field(
        0, ge=0, description="How many executed calls the ledger keeps, the newest; 0 is all"
    )
    default_version: str = Field(ACACIA, description="The version of requests that name none")
    connected_accounts: frozenset[str] = Field(
        frozenset(), description="What `Stripe-Account` may name. All see the same objects"
    )
