"""Which endpoint a method and a path lead to."""

from collections.abc import Mapping
from types import MappingProxyType

from app.sandbox.endpoints import (
    customers,
    prices,
    subscription_items,
    subscriptions,
    usage_records,
)
from app.sandbox.endpoints.endpoint import Endpoint

# (method, noun, whether an id follows, what follows the id)
_Key = tuple[str, str, bool, str | None]

_TABLE: Mapping[_Key, Endpoint] = MappingProxyType(
    {
        ("GET", "customers", False, None): customers.LIST,
        ("GET", "customers", True, None): customers.RETRIEVE,
        ("POST", "customers", False, None): customers.CREATE,
        ("GET", "prices", False, None): prices.LIST,
        ("GET", "prices", True, None): prices.RETRIEVE,
        ("POST", "prices", False, None): prices.CREATE,
        ("GET", "subscriptions", False, None): subscriptions.LIST,
        ("GET", "subscriptions", True, None): subscriptions.RETRIEVE,
        ("POST", "subscriptions", False, None): subscriptions.CREATE,
        ("GET", "subscription_items", False, None): subscription_items.LIST,
        ("GET", "subscription_items", True, None): subscription_items.RETRIEVE,
        ("POST", "subscription_items", True, "usage_records"): usage_records.CREATE,
        (
            "GET",
            "subscription_items",
            True,
            "usage_record_summaries",
        ): usage_records.LIST_SUMMARIES,
    }
)


def find(method: str, path: str) -> tuple[Endpoint, str] | None:
    """The endpoint and the id in the path (empty for lists); None for an unknown URL."""
    parts = path.split("/")
    if parts[:2] != ["", "v1"] or not 3 <= len(parts) <= 5 or "" in parts[2:]:
        return None
    object_id = parts[3] if len(parts) > 3 else ""
    below = parts[4] if len(parts) > 4 else None
    endpoint = _TABLE.get((method, parts[2], bool(object_id), below))
    return None if endpoint is None else (endpoint, object_id)
