"""The public API: one request from its headers to its answer, in the order Stripe looks at it.

Key, version, URL, account, permission, rate limit; then the injected faults; then, for a write
with an idempotency key, the stored answer; then validation, the subscription's lock, execution.
"""

import asyncio
import re

from starlette.types import Receive, Scope, Send

from app.sandbox import errors, form, parameters
from app.sandbox.endpoints.endpoint import Call, Endpoint
from app.sandbox.endpoints.table import find
from app.sandbox.errors import StripeError
from app.sandbox.fault_kinds import CutMoment, LatencyPhase
from app.sandbox.faults import UNHARMED, Plan, Subject
from app.sandbox.idempotency import KeyedRequest, fingerprint
from app.sandbox.keyring import ACCOUNT, redacted
from app.sandbox.sandbox import Sandbox
from app.sandbox.wire import Answer, ConnectionCut, Execution, Request

_VERSION = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}(\.[a-z]+)?", re.ASCII)
_FORM = "application/x-www-form-urlencoded"
_REPLAYED = (b"idempotent-replayed", b"true")
# What is expanded anyhow. Anything else is refused rather than silently left as it is.
_EXPANDED = frozenset({"items", "items.data.price", "price"})
_UNRECOGNIZED = "unrecognized"


class StripeApi:
    """The ASGI application of everything that is not the control API."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or end its connection without an answer."""
        request = await Request.read(scope, receive)
        found = find(request.method, request.path)
        name = _UNRECOGNIZED if found is None else found[0].operation.value
        try:
            answer = await self._answer(request, found)
        except ConnectionCut as cut:
            self._sandbox.traffic.cut[name] += 1
            await _end(request, cut, receive, send)
            return
        self._sandbox.traffic.answered[name, answer.status] += 1
        if _REPLAYED in answer.headers:
            self._sandbox.traffic.replayed[name] += 1
        await answer.send(send)
        if answer.repeated_after_ms is not None and request.connection is not None:
            await _pause(answer.repeated_after_ms)
            request.connection.write(answer.on_the_wire())

    async def _answer(self, request: Request, found: tuple[Endpoint, str] | None) -> Answer:
        sandbox = self._sandbox
        request_id = sandbox.ids.new("req")
        version = request.header(b"stripe-version") or sandbox.settings.default_version
        echo = ((b"request-id", request_id.encode()), (b"stripe-version", version.encode()))
        try:
            key = sandbox.keyring.known(request.api_key())
            if not _VERSION.fullmatch(version):
                raise errors.invalid_version(version)
            endpoint, object_id = self._recognized(request, found, version)
            account = self._admitted(request, endpoint, key)
            call = _call(request, endpoint, object_id, request_id=request_id, version=version)
        except StripeError as error:
            return error.answer(request_id).adding(*echo)
        plan = self._plan(endpoint, call)
        await _pause(plan.latency_ms.get(LatencyPhase.ARRIVAL, 0))
        if plan.cut is not None and plan.cuts(CutMoment.BEFORE_EXECUTION):
            raise ConnectionCut(reset=plan.cut.reset)
        if plan.refusal is not None:
            answer = plan.refusal(request_id)
        elif endpoint.writes and call.idempotency_key is not None:
            answer = await self._once(endpoint, call, call.idempotency_key, account, plan)
        else:
            answer, _ = await self._execute(endpoint, call, plan)
        await _pause(plan.latency_ms.get(LatencyPhase.ANSWER, 0))
        answer = plan.dress(answer.adding(*echo))
        if plan.cut is not None:
            partial = answer if plan.cuts(CutMoment.MID_ANSWER) else None
            raise ConnectionCut(reset=plan.cut.reset, partial=partial)
        return answer

    @staticmethod
    def _recognized(
        request: Request, found: tuple[Endpoint, str] | None, version: str
    ) -> tuple[Endpoint, str]:
        if found is None:
            raise errors.unrecognized_url(request.method, request.path)
        gone_since = found[0].gone_since
        if gone_since is not None and version[:10] >= gone_since:
            raise errors.unrecognized_url(request.method, request.path)
        return found

    def _admitted(self, request: Request, endpoint: Endpoint, key: str) -> str:
        """The account that the call is for. Raises StripeError: 403, 429."""
        sandbox, settings = self._sandbox, self._sandbox.settings
        account = request.header(b"stripe-account") or ACCOUNT
        if account != ACCOUNT and account not in settings.connected_accounts:
            raise errors.unknown_account(redacted(key), account)
        sandbox.keyring.require(key, endpoint.permission)
        refusal = sandbox.limiter.refusal(
            endpoint.operation,
            limit=settings.limit_per_second,
            global_limit=settings.global_limit_per_second,
        )
        if refusal is not None:
            raise refusal
        return account

    def _plan(self, endpoint: Endpoint, call: Call) -> Plan:
        faults = self._sandbox.faults
        if not faults:
            return UNHARMED
        return faults.plan(
            Subject(
                operation=endpoint.operation,
                object_id=call.object_id or None,
                subscription=self._subscription(call),
                idempotency_key=call.idempotency_key,
            )
        )

    def _subscription(self, call: Call) -> str | None:
        """The subscription that a call is about: the one in the path, or its item's."""
        if call.path.startswith("/v1/subscriptions/"):
            return call.object_id
        return self._sandbox.account.subscription_of(call.object_id)

    async def _once(
        self, endpoint: Endpoint, call: Call, key: str, account: str, plan: Plan
    ) -> Answer:
        """Execute, unless the key has an answer already."""
        keys = self._sandbox.idempotency
        try:
            first = keys.begin(
                account=account,
                key=key,
                path=call.path,
                bound_to=fingerprint("POST", call.path, call.parameters),
                request_id=call.request_id,
                now=self._sandbox.clock.now(),
            )
        except StripeError as error:
            return error.answer(call.request_id)
        if first.answer is not None:
            return first.answer.adding(_REPLAYED, *_keyed(key, first))
        try:
            answer, executed = await self._execute(endpoint, call, plan)
            if executed:
                first.answer = answer
        finally:
            if first.answer is None:
                keys.forget(first)
        return answer.adding(*_keyed(key, first))

    async def _execute(self, endpoint: Endpoint, call: Call, plan: Plan) -> tuple[Answer, bool]:
        """The answer, and whether it is one to be stored under an idempotency key."""
        sandbox, settings = self._sandbox, self._sandbox.settings
        executing = False
        try:
            _validate(endpoint, call)
            execution = endpoint.prepare(sandbox, call)
            with sandbox.locks.held(self._subscription(call) if endpoint.writes else None):
                usual = settings.write_latency_ms if endpoint.writes else settings.read_latency_ms
                await _pause(usual + plan.latency_ms.get(LatencyPhase.EXECUTION, 0))
                executing = True
                return _run(execution, plan, call.request_id), True
        except StripeError as error:
            return error.answer(call.request_id), executing and settings.store_refusals


def _call(
    request: Request, endpoint: Endpoint, object_id: str, *, request_id: str, version: str
) -> Call:
    if endpoint.writes:
        content_type = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        if request.body and content_type != _FORM:
            raise errors.not_a_form()
    return Call(
        request_id=request_id,
        path=request.path,
        object_id=object_id,
        parameters=form.decode(request.body if endpoint.writes else request.query),
        version=version,
        idempotency_key=request.header(b"idempotency-key"),
    )


def _validate(endpoint: Endpoint, call: Call) -> None:
    parameters.only(call.parameters, endpoint.parameters)
    if "expand" not in call.parameters:
        return
    for name in parameters.strings(call.parameters, "expand"):
        if name.removeprefix("data.") not in _EXPANDED:
            raise errors.invalid_value("expand", f"This property cannot be expanded ({name}).")


def _run(execution: Execution, plan: Plan, request_id: str) -> Answer:
    if plan.stored_error is None:
        return Answer.ok(execution())
    if plan.executed_nevertheless:
        execution()
    return plan.stored_error.answer(request_id)


def _keyed(key: str, first: KeyedRequest) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"idempotency-key", key.encode("latin-1")),
        (b"original-request", first.request_id.encode()),
    )


async def _pause(ms: int) -> None:
    if ms:
        await asyncio.sleep(ms / 1000)


async def _end(request: Request, cut: ConnectionCut, receive: Receive, send: Send) -> None:
    if request.connection is None:
        raise cut
    if cut.partial is None:
        request.connection.drop(reset=cut.reset)
    else:
        await send(cut.partial.start())
        half = cut.partial.body[: len(cut.partial.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        request.connection.finish()
    # Until the server knows, it would answer 500 in our place.
    while (await receive())["type"] != "http.disconnect":
        pass
