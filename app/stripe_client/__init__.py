"""A typed async client of the part of Stripe's API that usage records need.

It knows nothing of the rest of the program and could be lifted out. This front door leads to httpx:
pure code imports from `problems`, `errors`, `error_table`, `answers` and `rate_limit` directly.
"""

from app.stripe_client.answers import (
    Action,
    Customer,
    Price,
    Probe,
    Subscription,
    SubscriptionItem,
    UsageRecordAnswer,
    UsageRecordSummary,
)
from app.stripe_client.client import DEFAULT_BASE_URL, StripeClient
from app.stripe_client.error_table import classify
from app.stripe_client.errors import (
    FailurePhase,
    MalformedAnswer,
    StripeAnswered,
    StripeError,
    StripeUnreachable,
    VersionMismatch,
)
from app.stripe_client.exchange import STRIPE_VERSION
from app.stripe_client.meta import AnswerMeta
from app.stripe_client.problems import (
    ErrorAnswer,
    ProblemCategory,
    ProblemKind,
    RateLimitReason,
    StripeProblem,
)
from app.stripe_client.rate_limit import TokenBucket
from app.stripe_client.transport import Timeouts

__all__ = [
    "DEFAULT_BASE_URL",
    "STRIPE_VERSION",
    "Action",
    "AnswerMeta",
    "Customer",
    "ErrorAnswer",
    "FailurePhase",
    "MalformedAnswer",
    "Price",
    "Probe",
    "ProblemCategory",
    "ProblemKind",
    "RateLimitReason",
    "StripeAnswered",
    "StripeClient",
    "StripeError",
    "StripeProblem",
    "StripeUnreachable",
    "Subscription",
    "SubscriptionItem",
    "Timeouts",
    "TokenBucket",
    "UsageRecordAnswer",
    "UsageRecordSummary",
    "VersionMismatch",
    "classify",
]
