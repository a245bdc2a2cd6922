"""The error tree of the Stripe client.

    StripeError
    ├── StripeAnswered      Stripe answered with an error; `problem` says which one
    ├── StripeUnreachable   no usable HTTP answer came; `sent` says whether a request may have left
    ├── MalformedAnswer     not an answer to what was asked
    └── VersionMismatch     200, but of another API version than the pinned one

Each says with `in_doubt` whether a POST that ended so may have been executed: then only the same
request under the same idempotency key may follow, or a look at what Stripe holds. Nothing here
holds the API key, and no foreign exception is chained: those of aiohttp carry the request's
headers. Wrong arguments are no `StripeError`: they raise `ValueError` or `TypeError` before
anything is sent. Pure: no I/O is imported here.
"""

from enum import StrEnum

from app.stripe_client.meta import AnswerMeta
from app.stripe_client.problems import (
    ErrorAnswer,
    ProblemCategory,
    ProblemKind,
    StripeProblem,
)


class StripeError(Exception):
    """The root. `meta` is `None` when no answer came."""

    def __init__(self, detail: str, *, in_doubt: bool, meta: AnswerMeta | None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.in_doubt = in_doubt
        self.meta = meta

    @property
    def request_id(self) -> str | None:
        """Stripe's id of the request, for its logs and its support."""
        return self.meta.request_id if self.meta is not None else None


class StripeAnswered(StripeError):
    """An error answer, classified. `message` is Stripe's text, redacted, at most 500 characters."""

    meta: AnswerMeta

    def __init__(self, problem: StripeProblem, answer: ErrorAnswer, meta: AnswerMeta) -> None:
        self.problem = problem
        self.type = answer.type
        self.code = answer.code
        self.param = answer.param
        self.message = answer.message
        known = {"code": answer.code, "param": answer.param, "request": meta.request_id}
        said = ", ".join(f"{name}={value}" for name, value in known.items() if value)
        super().__init__(
            f"{problem.kind} (HTTP {answer.status}{', ' + said if said else ''})"
            f"{': ' + answer.message if answer.message else ''}",
            in_doubt=_may_have_executed(problem, answer),
            meta=meta,
        )

    @property
    def kind(self) -> ProblemKind:
        """The stable name of the error."""
        return self.problem.kind

    @property
    def category(self) -> ProblemCategory:
        """What the error is about."""
        return self.problem.category


def _may_have_executed(problem: StripeProblem, answer: ErrorAnswer) -> bool:
    if problem.kind is ProblemKind.UNFORESEEN:
        # A refusal that Stripe itself words was not executed; of a stranger's answer (a gateway's
        # 408, a redirect) nobody knows.
        return answer.type is None or not 400 <= answer.status < 500
    return problem.kind is ProblemKind.SERVER_ERROR


class FailurePhase(StrEnum):
    """How far an exchange came before it broke."""

    CONNECT = "connect"  # no connection: DNS, TCP, TLS, or the wait for a free one
    EXCHANGE = "exchange"  # the connection broke after the request may have left
    TIMEOUT = "timeout"  # no, or no complete, answer in time
    PROTOCOL = "protocol"  # what came back is not HTTP


class StripeUnreachable(StripeError):
    """No usable HTTP answer. `sent=False`: certainly not executed. `sent=True`: in doubt."""

    def __init__(self, detail: str, *, phase: FailurePhase, sent: bool) -> None:
        super().__init__(detail, in_doubt=sent, meta=None)
        self.phase = phase
        self.sent = sent


class MalformedAnswer(StripeError):
    """A 2xx whose body is garbage, too large, or about something else than was asked; or any
    answer that names the idempotency key of another request."""

    meta: AnswerMeta

    def __init__(self, detail: str, *, meta: AnswerMeta) -> None:
        request = f" (request {meta.request_id})" if meta.request_id else ""
        super().__init__(f"malformed answer: {detail}{request}", in_doubt=True, meta=meta)


class VersionMismatch(StripeError):
    """A 200 that does not echo the pinned Stripe-Version. `echoed` is what it said, if anything."""

    meta: AnswerMeta

    def __init__(self, pinned: str, *, meta: AnswerMeta) -> None:
        self.pinned = pinned
        self.echoed = meta.stripe_version
        super().__init__(
            f"the answer is of Stripe-Version {self.echoed or 'unknown'}, not {pinned}",
            in_doubt=True,
            meta=meta,
        )
