"""A typed async client of the part of OpenMeter's API that the bridge asks.

It only reads, and neither retries nor waits: what follows an error is the caller's decision.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Self
from urllib.parse import urlencode

import httpx

from app.openmeter.api_answers import Customer, QueryRow, WindowSize
from app.openmeter.api_errors import OpenMeterMalformed, OpenMeterRefused
from app.openmeter.api_query import MeterQuery, customer_path, meter_path, subjects_query
from app.openmeter.api_reading import (
    read_customers,
    read_rows,
    read_stripe_customer_id,
    read_subjects,
)
from app.openmeter.api_transport import ApiTransport, open_transport

LONGEST_KEY = 1024
# They travel in the address, of which proxies take 8 kB.
SUBJECTS_PER_CALL = 25
CUSTOMERS_PER_PAGE = 100
# The filter finds every part of a subject: "1" finds "1", "10", "customer-1", …
MOST_CUSTOMERS = 10_000


class OpenMeterClient:
    """Async client of one OpenMeter. Close it, or use `async with`.

    Every call raises `OpenMeterError` (see `api_errors`) for what OpenMeter or the network did, and
    `ValueError` for arguments that must not be sent. `timeout` is in seconds and bounds one request
    with its answer. `transport` replaces the network, in tests.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 20.0,
        max_connections: int = 16,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if type(max_connections) is not int or max_connections < 1:
            # 0 would mean "no limit" to aiohttp.
            raise ValueError("max_connections must be a whole number of at least 1")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError("the timeout must be a positive number of seconds")
        self._api = ApiTransport(
            base_url=_checked_base_url(base_url),
            api_key=None if api_key is None else _checked_key(api_key),
            timeout=timeout,
            user_agent=_user_agent(),
            transport=transport or open_transport(max_connections=max_connections),
        )

    async def __aenter__(self) -> Self:
        """The client itself; connections open when they are needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._api.aclose()

    async def query(
        self,
        meter: str,
        *,
        from_: datetime,
        to: datetime,
        subject: str | Sequence[str],
        group_by: Sequence[str] = (),
        filter_group_by: Mapping[str, str] | None = None,
        window_size: WindowSize | None = None,
    ) -> tuple[QueryRow, ...]:
        """What a meter (slug or id) holds in [from_, to), by window, subject and group.

        Bounds are aware whole seconds. Rows are always apart by subject; `subject` in `group_by`
        is allowed and changes nothing. `filter_group_by` matches exactly; rows tell only the groups
        of `group_by`. Without `window_size` each subject and group has one total. Empty windows
        and subjects without usage have no rows. Sorted by window, subject, group.
        """
        subjects = (subject,) if isinstance(subject, str) else tuple(dict.fromkeys(subject))
        asked = MeterQuery(
            meter=meter,
            from_=from_,
            to=to,
            subjects=subjects,
            group_by=tuple(name for name in dict.fromkeys(group_by) if name != "subject"),
            filter_group_by=dict(filter_group_by or {}),
            window_size=window_size,
        )
        rows: list[QueryRow] = []
        for batch in _batches(subjects):
            part = replace(asked, subjects=batch)
            rows += read_rows(await self._api.get(part.path, part.query_string()), part)
        return tuple(sorted(rows, key=_place))

    async def subjects(self, meter: str, *, from_: datetime, to: datetime) -> tuple[str, ...]:
        """Who has usage of a meter in [from_, to); sorted. Bounds are aware whole seconds."""
        return read_subjects(
            await self._api.get(f"{meter_path(meter)}/subjects", subjects_query(from_, to))
        )

    async def customers(self, subject: str) -> tuple[Customer, ...]:
        """The customers that a subject's usage belongs to: by exact subject key, or exact key.

        OpenMeter's own filters find every part of a name in any case, which would bill the wrong
        customer. More than one customer here is an ambiguity for the caller to refuse. By id.
        """
        if not subject:
            raise ValueError("the subject must not be empty")
        found: dict[str, Customer] = {}
        for name in ("subject", "key"):
            for customer in await self._listed(name, subject):
                if subject in customer.subject_keys or subject == customer.key:
                    found[customer.id] = customer
        return tuple(found[identifier] for identifier in sorted(found))

    async def stripe_customer_id(self, customer: str) -> str | None:
        """The Stripe customer (`cus_…`) of a customer (id or key); `None` where there is none."""
        try:
            document = await self._api.get(f"{customer_path(customer)}/stripe")
        except OpenMeterRefused as refused:
            if refused.absent:
                return None
            raise
        return read_stripe_customer_id(document)

    async def _listed(self, filter_name: str, text: str) -> list[Customer]:
        found: list[Customer] = []
        seen: set[str] = set()
        number = 1
        while len(seen) <= MOST_CUSTOMERS:
            page = read_customers(
                await self._api.get(
                    "/api/v1/customers",
                    urlencode(
                        {
                            filter_name: text,
                            "page": number,
                            "pageSize": CUSTOMERS_PER_PAGE,
                            # By name, a renamed customer would slip from page to page.
                            "orderBy": "id",
                            "order": "ASC",
                        }
                    ),
                )
            )
            if page.ids and seen.issuperset(page.ids):
                raise OpenMeterMalformed(f"page {number} of the customers repeats earlier ones")
            seen.update(page.ids)
            found += page.customers
            # Short pages end nothing: a server may have a lower limit of its own.
            if not page.ids or len(seen) >= page.total:
                return found
            number += 1
        raise OpenMeterMalformed(f"over {MOST_CUSTOMERS} customers match one name")


def _batches(subjects: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(subjects), SUBJECTS_PER_CALL):
        yield subjects[start : start + SUBJECTS_PER_CALL]


def _place(row: QueryRow) -> tuple[datetime, str, tuple[str, ...]]:
    return row.window_start, row.subject, tuple(row.group_by.values())


def _checked_key(key: str) -> str:
    if not 0 < len(key) <= LONGEST_KEY or not all("!" <= char <= "~" for char in key):
        # Never the value: it is a secret.
        raise ValueError("the API key of OpenMeter must be visible ASCII without spaces")
    return key


def _checked_base_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise ValueError("the base URL of OpenMeter is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("the base URL of OpenMeter must be http(s)://host[:port]")
    if url.userinfo or url.query or url.fragment:
        raise ValueError("the base URL of OpenMeter must have no user, query or fragment")
    return base_url.rstrip("/")


def _user_agent() -> str:
    try:
        return f"meterbridge/{version('meterbridge')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "meterbridge"
