"""The typed client: the few calls of Stripe that the bridge makes.

It neither retries nor waits: what follows an error is the caller's decision, and the pace is set by
a `TokenBucket` in front of it.
"""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Self

import httpx

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
from app.stripe_client.encoding import (
    LONGEST_IDEMPOTENCY_KEY,
    FormValue,
    encode_form,
    header_value,
    path_segment,
    whole_number,
)
from app.stripe_client.exchange import HttpExchange
from app.stripe_client.members import Members
from app.stripe_client.paging import PAGE, all_pages
from app.stripe_client.reading import (
    read_customer,
    read_item,
    read_price,
    read_subscription,
    read_summary,
    read_usage_record,
)
from app.stripe_client.transport import Timeouts, open_transport

DEFAULT_BASE_URL = "https://api.stripe.com"
MOST_ITEMS = 1_000  # Stripe allows twenty per subscription
MOST_SUBSCRIPTIONS = 10_000  # of one list, unless the caller says otherwise: a hundred reads
MOST_CUSTOMERS = 10_000


class StripeClient:
    """Async client of one account, bound to the pinned version. Close it, or use `async with`.

    Every call raises `StripeError` (see `errors`) for what Stripe or the network did, and
    `ValueError` or `TypeError` for arguments that must not be sent. `transport` replaces the
    network, in tests: `httpx.MockTransport(respx_router.async_handler)`.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        account: str | None = None,
        timeouts: Timeouts | None = None,
        max_connections: int = 64,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if type(max_connections) is not int or max_connections < 1:
            # 0 would mean "no limit" to aiohttp.
            raise ValueError("max_connections must be a whole number of at least 1")
        self._exchange = HttpExchange(
            api_key=header_value("the API key", api_key),
            base_url=_checked_base_url(base_url),
            account=None if account is None else header_value("the account", account),
            user_agent=_user_agent(),
            timeouts=timeouts or Timeouts(),
            transport=transport or open_transport(max_connections=max_connections),
        )

    async def __aenter__(self) -> Self:
        """The client itself; connections open when they are needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; calls in flight end in doubt."""
        await self._exchange.aclose()

    async def post_usage_record(
        self,
        *,
        subscription_item: str,
        quantity: int,
        timestamp: int,
        action: Action,
        idempotency_key: str,
    ) -> UsageRecordAnswer:
        """Write a usage record; the answer is checked to be about exactly this record.

        `quantity` is a whole number of at least 0, `timestamp` Unix seconds, `idempotency_key` 1 to
        255 visible ASCII characters.
        """
        if action not in {"set", "increment"}:
            raise ValueError("action must be set or increment")
        whole_number("quantity", quantity)
        whole_number("timestamp", timestamp)
        item = path_segment("subscription_item", subscription_item)
        key = header_value("idempotency_key", idempotency_key, longest=LONGEST_IDEMPOTENCY_KEY)
        body = await self._exchange.post(
            f"/v1/subscription_items/{item}/usage_records",
            # All three are plain by now. Their order is fixed: the key binds the parameters.
            f"quantity={quantity}&timestamp={timestamp}&action={action}",
            idempotency_key=key,
        )
        return read_usage_record(
            body,
            subscription_item=subscription_item,
            quantity=quantity,
            timestamp=timestamp,
            action=action,
        )

    async def subscription(self, subscription: str) -> Subscription:
        """A subscription with all its items."""
        path = f"/v1/subscriptions/{path_segment('subscription', subscription)}"
        return await self._with_all_items(await self._exchange.get(path), wanted=subscription)

    async def subscription_items(self, subscription: str) -> tuple[SubscriptionItem, ...]:
        """All items of a subscription; their period is `None` under the pinned version."""
        path_segment("subscription", subscription)
        return await self._items_after(subscription)

    async def subscriptions(
        self,
        *,
        customer: str | None = None,
        status: str | None = None,
        most: int = MOST_SUBSCRIPTIONS,
    ) -> tuple[Subscription, ...]:
        """All subscriptions of a customer (or the account), newest first.

        `status` is one of Stripe's, or `all`; without it canceled ones are hidden. A list of more
        than `most` raises `MalformedAnswer`: reads are rationed, and a page holds a hundred.
        """
        query: dict[str, FormValue] = {}
        if customer is not None:
            path_segment("customer", customer)
            query["customer"] = customer
        if status is not None:
            query["status"] = status
        pages = await all_pages(
            self._exchange.get,
            "/v1/subscriptions",
            query,
            read=_ListedBody,
            most=whole_number("most", most),
        )
        return tuple([await self._with_all_items(listed.body) for listed in pages])

    async def usage_record_summaries(
        self, subscription_item: str, *, limit: int = 10
    ) -> tuple[UsageRecordSummary, ...]:
        """The newest `limit` (1 to 100) periods of an item; the first is open and still moves."""
        if not 1 <= whole_number("limit", limit) <= PAGE:
            raise ValueError(f"limit must be 1 to {PAGE}")
        item = path_segment("subscription_item", subscription_item)
        body = await self._exchange.get(
            f"/v1/subscription_items/{item}/usage_record_summaries", encode_form({"limit": limit})
        )
        return tuple(
            read_summary(summary, subscription_item=subscription_item)
            for summary in body.each("data")
        )

    async def customer(self, customer: str) -> Customer:
        """A customer, deleted or not."""
        body = await self._exchange.get(f"/v1/customers/{path_segment('customer', customer)}")
        return read_customer(body, wanted=customer)

    async def customers(self, *, most: int = MOST_CUSTOMERS) -> tuple[Customer, ...]:
        """All customers of the account, newest first; deleted ones are not listed.

        A list of more than `most` raises `MalformedAnswer`: reads are rationed, and a page holds
        a hundred.
        """
        return await all_pages(
            self._exchange.get,
            "/v1/customers",
            {},
            read=read_customer,
            most=whole_number("most", most),
        )

    async def price(self, price: str) -> Price:
        """A price, active or not."""
        body = await self._exchange.get(f"/v1/prices/{path_segment('price', price)}")
        body.expect("id", price)
        return read_price(body)

    async def probe(self) -> Probe:
        """One small read that shows whether key, account and version work.

        Needs no permission beyond what the bridge needs anyway (`subscription_read`).
        """
        body = await self._exchange.get("/v1/subscriptions", encode_form({"limit": 1}))
        seen = [listed.boolean("livemode") for listed in body.each("data")]
        return Probe(livemode=seen[0] if seen else None, meta=body.meta)

    async def _with_all_items(self, body: Members, *, wanted: str | None = None) -> Subscription:
        subscription, has_more = read_subscription(body, wanted=wanted)
        if not has_more:
            return subscription
        further = await self._items_after(subscription.id, known=subscription)
        return replace(subscription, items=subscription.items + further)

    async def _items_after(
        self, subscription: str, *, known: Subscription | None = None
    ) -> tuple[SubscriptionItem, ...]:
        def read(body: Members) -> SubscriptionItem:
            return read_item(
                body,
                subscription=subscription,
                period_start=known.current_period_start if known else None,
                period_end=known.current_period_end if known else None,
            )

        return await all_pages(
            self._exchange.get,
            "/v1/subscription_items",
            {"subscription": subscription},
            read=read,
            most=MOST_ITEMS,
            seen=[item.id for item in known.items] if known else [],
        )


class _ListedBody:
    """An object of a list that is read in full only after its own pages are followed."""

    def __init__(self, body: Members) -> None:
        self.body = body
        self.id = body.text("id")


def _checked_base_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise ValueError("the base URL of Stripe is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("the base URL of Stripe must be http(s)://host[:port]")
    if url.userinfo or url.query or url.fragment:
        raise ValueError("the base URL of Stripe must have no user, query or fragment")
    return base_url.rstrip("/")


def _user_agent() -> str:
    try:
        return f"meterbridge/{version('meterbridge')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "meterbridge"
