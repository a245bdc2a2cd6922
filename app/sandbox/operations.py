"""The names of the API's operations: what rate limits, faults and counts go by."""

from enum import StrEnum


class Operation(StrEnum):
    """One endpoint, whatever the id in its path."""

    LIST_CUSTOMERS = "list_customers"
    RETRIEVE_CUSTOMER = "retrieve_customer"
    CREATE_CUSTOMER = "create_customer"
    LIST_PRICES = "list_prices"
    RETRIEVE_PRICE = "retrieve_price"
    CREATE_PRICE = "create_price"
    LIST_SUBSCRIPTIONS = "list_subscriptions"
    RETRIEVE_SUBSCRIPTION = "retrieve_subscription"
    CREATE_SUBSCRIPTION = "create_subscription"
    LIST_SUBSCRIPTION_ITEMS = "list_subscription_items"
    RETRIEVE_SUBSCRIPTION_ITEM = "retrieve_subscription_item"
    CREATE_USAGE_RECORD = "create_usage_record"
    LIST_USAGE_RECORD_SUMMARIES = "list_usage_record_summaries"
