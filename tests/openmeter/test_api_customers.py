"""Customers: a name that is a part of another's must never bill the other."""

import pytest

from app.openmeter.api import CUSTOMERS_PER_PAGE, OpenMeterClient
from app.openmeter.api_answers import Customer
from app.openmeter.api_errors import OpenMeterRefused
from tests.openmeter_side.answers import Answer
from tests.openmeter_side.side import OpenMeterSide


async def test_only_exact_members_are_kept(side: OpenMeterSide, openmeter: OpenMeterClient) -> None:
    side.customer("01A", subjects=["acme-eu", "ACME", "acme2"])
    side.customer("01B", subjects=["other", "acme"], key="b-acme")
    side.customer("01C", subjects=["not-acme"], key="acme.example")
    assert await openmeter.customers("acme") == (
        Customer(id="01B", key="b-acme", subject_keys=("other", "acme")),
    )
    assert await openmeter.customers("cme") == ()


async def test_a_key_counts_as_a_subject_and_two_customers_are_both_told(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.customer("01B", key="acme")
    side.customer("01A", subjects=["acme"])
    side.customer("01C", key="acme", subjects=["acme"], deleted=True)
    assert [customer.id for customer in await openmeter.customers("acme")] == ["01A", "01B"]


@pytest.mark.parametrize("page_limit", [1000, 30])
async def test_all_pages_are_read(
    side: OpenMeterSide, openmeter: OpenMeterClient, page_limit: int
) -> None:
    """Also where the server's pages are shorter than what was asked for."""
    side.page_limit = page_limit
    for number in range(2 * CUSTOMERS_PER_PAGE):
        side.customer(f"{number:04}", subjects=[f"acme-{number}"])
    side.customer("9999", subjects=["acme"])
    assert [customer.id for customer in await openmeter.customers("acme")] == ["9999"]


async def test_a_plain_list_is_all_there_is(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.plain_lists = True
    side.customer("01A", subjects=["acme"])
    assert [customer.id for customer in await openmeter.customers("acme")] == ["01A"]
    assert len(side.requests) == 2  # by subject, by key


async def test_a_subject_that_needs_escaping(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.customer("01A", subjects=["a&key=b c/ü+%41"])
    assert [c.id for c in await openmeter.customers("a&key=b c/ü+%41")] == ["01A"]
    with pytest.raises(ValueError, match="empty"):
        await openmeter.customers("")


async def test_the_stripe_customer(side: OpenMeterSide, openmeter: OpenMeterClient) -> None:
    side.customer("01A", key="acme inc", stripe="cus_1")
    side.customer("01B")
    assert await openmeter.stripe_customer_id("01A") == "cus_1"
    assert await openmeter.stripe_customer_id("acme inc") == "cus_1"
    assert await openmeter.stripe_customer_id("01B") is None
    assert await openmeter.stripe_customer_id("unknown") is None


@pytest.mark.parametrize("wrong", ["", "..", "a/b", "a\\b", " a", "a\n", "x" * 257])
async def test_a_customer_that_is_no_segment_of_a_path(
    side: OpenMeterSide, openmeter: OpenMeterClient, wrong: str
) -> None:
    with pytest.raises(ValueError, match="path"):
        await openmeter.stripe_customer_id(wrong)
    assert side.requests == []


async def test_a_wrong_address_is_not_taken_for_an_absent_customer(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.fail(Answer(404, b"404 page not found", "text/plain"))
    with pytest.raises(OpenMeterRefused) as refused:
        await openmeter.stripe_customer_id("01A")
    assert (refused.value.status, refused.value.problem) == (404, None)
