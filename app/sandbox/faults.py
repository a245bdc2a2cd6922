"""Injected faults: which of them meet a request, and what they make of its answer."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from app.sandbox import errors
from app.sandbox.errors import StripeError
from app.sandbox.fault_kinds import (
    ActiveFault,
    AnswerHeaders,
    AnyFault,
    Cut,
    CutMoment,
    DuplicateAnswer,
    Fault,
    Garbage,
    KeyInUse,
    Latency,
    LatencyPhase,
    LockTimeout,
    MetRequest,
    RateLimited,
    Status,
    StoredError,
    VersionEcho,
)
from app.sandbox.ids import Ids
from app.sandbox.operations import Operation
from app.sandbox.wire import Answer

Refusal = Callable[[str], Answer]


@dataclass(frozen=True, slots=True)
class Subject:
    """What faults match on."""

    operation: Operation
    object_id: str | None
    subscription: str | None
    idempotency_key: str | None


@dataclass(slots=True)
class Plan:
    """What the faults that met one request make of it. Of two refusals the first counts."""

    latency_ms: dict[LatencyPhase, int] = field(default_factory=dict)
    refusal: Refusal | None = None
    stored_error: StripeError | None = None
    executed_nevertheless: bool = False
    cut: Cut | None = None
    garbage: Garbage | None = None
    duplicate: DuplicateAnswer | None = None
    headers: dict[bytes, bytes | None] = field(default_factory=dict)

    def cuts(self, moment: CutMoment) -> bool:
        """Whether the connection ends at this moment."""
        return self.cut is not None and self.cut.when is moment

    def dress(self, answer: Answer) -> Answer:
        """The answer with the body and the headers that the faults give it."""
        if self.garbage is not None:
            answer = Answer(
                self.garbage.status or answer.status,
                self.garbage.body.encode(),
                tuple(header for header in answer.headers if header[0] != b"content-type"),
            ).adding((b"content-type", self.garbage.content_type.encode()))
        if self.duplicate is not None:
            answer = replace(answer, repeated_after_ms=self.duplicate.delay_ms)
        if not self.headers:
            return answer
        kept = tuple(header for header in answer.headers if header[0] not in self.headers)
        given = tuple((name, value) for name, value in self.headers.items() if value is not None)
        return replace(answer, headers=kept + given)


UNHARMED = Plan()


@dataclass(slots=True)
class _Entry:
    id: str
    fault: AnyFault
    dice: random.Random
    matched: int = 0
    met: int = 0
    last_met: Subject | None = None

    @property
    def spent(self) -> bool:
        return self.fault.times is not None and self.met >= self.fault.times

    def meets(self, subject: Subject) -> bool:
        if self.spent or not _matches(self.fault, subject):
            return False
        self.matched += 1
        if self.matched <= self.fault.skip or self.dice.random() >= self.fault.probability:
            return False
        self.met += 1
        self.last_met = subject
        return True


class Faults:
    """The injected faults, in the order of their injection."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._entries: dict[str, _Entry] = {}
        # What can still meet a request: a long test injects thousands that are spent soon.
        self._live: list[_Entry] = []

    def __bool__(self) -> bool:
        return bool(self._live)

    def inject(self, fault: AnyFault) -> ActiveFault:
        """Add a fault."""
        # A seed that the caller gave, so that a test repeats itself; nothing secret is drawn.
        dice = random.Random(fault.seed)  # noqa: S311
        entry = _Entry(self._ids.new("fault"), fault, dice)
        self._entries[entry.id] = entry
        self._live.append(entry)
        return _shown(entry)

    def listed(self) -> list[ActiveFault]:
        """All faults, spent ones included."""
        return [_shown(entry) for entry in self._entries.values()]

    def clear(self, identifier: str | None = None) -> None:
        """Take one fault away, or all. One that is not there is no error."""
        if identifier is None:
            self._entries.clear()
        else:
            self._entries.pop(identifier, None)
        self._live = [entry for entry in self._live if entry.id in self._entries]

    def plan(self, subject: Subject) -> Plan:
        """What is to happen to a request. Counts it as met."""
        plan = Plan()
        for entry in self._live:
            if entry.meets(subject):
                _apply(entry.fault, plan, subject)
        self._live = [entry for entry in self._live if not entry.spent]
        return plan


def _shown(entry: _Entry) -> ActiveFault:
    last = entry.last_met
    return ActiveFault(
        id=entry.id,
        fault=entry.fault,
        matched=entry.matched,
        met=entry.met,
        last_met=last
        and MetRequest(
            operation=last.operation,
            object_id=last.object_id,
            subscription=last.subscription,
            idempotency_key=last.idempotency_key,
        ),
    )


def _matches(fault: Fault, subject: Subject) -> bool:
    wanted = fault.match
    return (
        wanted.operation in {None, subject.operation}
        and wanted.object_id in {None, subject.object_id}
        and wanted.subscription in {None, subject.subscription}
        and wanted.idempotency_key in {None, subject.idempotency_key}
    )


def _apply(fault: AnyFault, plan: Plan, subject: Subject) -> None:
    match fault:
        case Latency(ms=ms, phase=phase):
            plan.latency_ms[phase] = plan.latency_ms.get(phase, 0) + ms
        case Cut():
            plan.cut = plan.cut or fault
        case StoredError():
            plan.stored_error = plan.stored_error or errors.server_error(fault.status)
            plan.executed_nevertheless |= fault.executed
            _retry_after(fault.retry_after, plan)
        case Garbage():
            plan.garbage = plan.garbage or fault
        case DuplicateAnswer():
            plan.duplicate = plan.duplicate or fault
        case VersionEcho(version=version):
            plan.headers[b"stripe-version"] = None if version is None else version.encode()
        case AnswerHeaders(headers=headers):
            for name, value in headers.items():
                plan.headers[name.lower().encode()] = None if value is None else value.encode()
        case _:
            plan.refusal = plan.refusal or _refusal(fault, subject)
            if isinstance(fault, Status | RateLimited):
                _retry_after(fault.retry_after, plan)


def _retry_after(value: int | str | None, plan: Plan) -> None:
    if value is not None:
        plan.headers[b"retry-after"] = str(value).encode()


def _refusal(fault: Status | RateLimited | LockTimeout | KeyInUse, subject: Subject) -> Refusal:
    match fault:
        case RateLimited(reason=reason):
            return errors.rate_limited(reason).answer
        case LockTimeout():
            return errors.lock_timeout().answer
        case KeyInUse():
            return errors.key_in_use(subject.idempotency_key or "").answer
        case Status(body=str(body)):
            content_type = (b"content-type", fault.content_type.encode())
            return lambda _: Answer(fault.status, body.encode(), (content_type,))
        case Status(error=error):
            return StripeError(
                fault.status,
                error.message,
                kind=error.type,
                code=error.code,
                param=error.param,
            ).answer
