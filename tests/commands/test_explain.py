"""`meterbridge explain`, the real command on a real database."""

import json
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands.demo_http import LocalApi
from app.mapping.file import from_yaml, to_mappings
from app.stripe_client import StripeClient
from tests.commands.program import Program
from tests.ledger.explainable import DAY, Written
from tests.mapping.stripe_side import HOUR, PERIOD_END, SECOND, item


@pytest.fixture
async def written(engine: AsyncEngine) -> Written:
    """March of si_1: booked, corrected, refused once, held, carried away, parked."""
    made = Written(engine)
    await made.snapshot(item("si_1"))
    who = "subjects: [{subject: customer-1, subscription: sub_1}]"
    await made.mappings.replace(to_mappings(from_yaml(who)), now=DAY)
    march = await made.period(
        closed_at=PERIOD_END + HOUR, exact_numerator=27, exact_denominator=2, rounded_total=14
    )
    april = await made.period(period_start=PERIOD_END, period_end=PERIOD_END + 700 * HOUR)
    home = await made.record(march, DAY + HOUR - SECOND, 10, carried_quantity=-1)
    there = await made.record(april, PERIOD_END + SECOND, 1, carried_quantity=1)
    await made.carry(home, there, 1)
    await made.window(
        DAY,
        "12.5",
        home,
        group_by={"model": "[red]gpt-4"},
        amount_numerator=25,
        amount_denominator=2,
        svix_id="msg_booked",
        revision=2,
    )
    await made.attempt(
        home,
        11,
        http_status=400,
        outcome="resolved",
        problem="period_closed",
        message="timestamps must be after",
        request_id="req_refused",
    )
    await made.attempt(home, 10, request_id="req_taken")
    await made.record(march, DAY + 3 * HOUR, 3, state="held", reason="item_gone")
    await made.window(DAY + 5 * HOUR, 4, reason="no_meter_mapping", svix_id="msg_parked")
    return made


ITEM = ("explain", "--item", "si_1", "--period", "2026-03-15")
DAY_OF = ("explain", "--subject", "customer-1", "--day", "2026-03-09")


async def test_a_page_that_support_understands(written: Written, program: Program) -> None:
    done = program.run(*ITEM, "--no-stripe", COLUMNS="300")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "price_1 on sub_1 (si_1), 1 Mar 2026 00:00 to 1 Apr 2026 00:00 UTC: 13 units are wanted, "
        "10 reported, Stripe was not asked. 1 unit came after Stripe had closed the period"
    )
    for said in (
        "closed since 1 Apr 2026 01:00",
        "13.5 exactly, 14 rounded, -1 carried away: 13",
        "3 units could not be billed (item_gone)",
        "tokens of customer-1 model=[red]gpt-4, 9 Mar 2026 00:00 to 01:00: 12.5 (SUM)",
        "told by a webhook: msg_booked",
        "this is revision 2",
        "set 11, HTTP 400, resolved, period_closed, req_refused",
        "set 10, HTTP 200, succeeded, req_taken",
        "1 unit from si_1 at 9 Mar 2026 00:59:59 (period from 1 Mar 2026 00:00) to si_1",
        "[parked: no_meter_mapping] Apply a mapping for this meter.",
        "not certain to be for this item",
    ):
        assert said in done.stdout


@pytest.mark.parametrize("selection", [ITEM, DAY_OF])
async def test_json_is_the_api_s_page(
    written: Written, program: Program, selection: tuple[str, ...]
) -> None:
    done = program.run(*selection, "--json")
    assert done.returncode == 0
    page = json.loads(done.stdout)
    assert page["item_periods"][0]["stripe"]["look"] == "not_readable"  # nobody listens there
    assert (page["day"] is None) is (selection == ITEM)
    assert page["item_periods"][0]["records"][0]["attempts"][0]["request_id"] == "req_refused"


async def test_a_subject_on_a_day(written: Written, program: Program) -> None:
    done = program.run(*DAY_OF, STRIPE_API_KEY="", COLUMNS="300")
    assert done.returncode == 0
    assert done.stdout.startswith(
        "customer-1, 9 Mar 2026 (UTC): 2 windows, 1 booked on 1 item period. 1 window is parked"
    )
    assert "told by a webhook: msg_parked" in done.stdout
    assert "this process has no Stripe key" in done.stdout
    assert "1 of 2 records: those of the day" in done.stdout


async def test_it_fits_a_terminal(written: Written, program: Program) -> None:
    done = program.run(*ITEM, "--no-stripe", COLUMNS="80")
    assert done.returncode == 0
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


async def test_what_the_sandbox_says_is_on_the_page(
    engine: AsyncEngine, program: Program, control: LocalApi
) -> None:
    """The real client, and the very bounds that booking took from Stripe."""
    control.call("POST", "/_sandbox/customers", {"id": "cus_1"})
    control.call("POST", "/_sandbox/prices", {"id": "price_1"})
    control.call(
        "POST",
        "/_sandbox/subscriptions",
        {"id": "sub_1", "customer": "cus_1", "items": [{"id": "si_1", "price": "price_1"}]},
    )
    async with StripeClient(api_key="sk_test_sandbox", base_url=control.url) as client:
        found = await client.subscription("sub_1")
        assert found.current_period_start is not None
        assert found.current_period_end is not None
        start = datetime.fromtimestamp(found.current_period_start, UTC)
        end = datetime.fromtimestamp(found.current_period_end, UTC)
        made = Written(engine)
        period = await made.period(
            period_start=start, period_end=end, exact_numerator=0, rounded_total=0
        )
        await made.record(period, start + SECOND, 0)
    when = str(found.current_period_start)
    done = program.run(
        "explain", "--item", "si_1", "--period", when, STRIPE_API_BASE=control.url, COLUMNS="300"
    )
    assert "0 reported, Stripe says 0. Everything from OpenMeter is billed." in done.stdout
    assert "The period is open: the figure still moves." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("explain",), "--item"),
        (("explain", "--item", "si_1"), "--period: is missing"),
        (("explain", "--subject", "a", "--day", "soon"), "--day: is neither a date"),
        (("explain", "--item", "si_9", "--period", "2026-03-15"), "Neither the ledger"),
    ],
)
def test_refusals(program: Program, arguments: tuple[str, ...], said: str) -> None:
    done = program.run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
