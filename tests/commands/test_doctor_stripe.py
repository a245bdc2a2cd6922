"""The doctor at a real sandbox: every problem it can find there, and what its looking costs."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from app.clock import SystemClock
from app.commands.demo_http import LocalApi
from app.commands.doctor_findings import Finding, Level
from app.commands.doctor_stripe import StripeExamination, key_finding, mapped_now, sample
from app.config import Settings
from app.mapping.file import Mappings, from_yaml, to_mappings
from app.mapping.models import SubjectMapping
from app.workshop import open_client

KEY = "sk_test_sandbox"
MAPPINGS = """
meters:
  - {meter: calls, price: price_calls}
  - {meter: tokens, lookup_key: tokens}
subjects:
  - {subject: customer-1, subscription: sub_1}
"""


def settings(base: str, *, key: str = KEY, account: str | None = None) -> Settings:
    return Settings(
        _env_file=None,
        stripe_api_key=SecretStr(key),
        stripe_api_base=base,
        stripe_account=account,
        stripe_timeout=5,
    )


def mappings(text: str = MAPPINGS) -> Mappings:
    return to_mappings(from_yaml(text))


async def looked(chosen: Settings, mapped: Mappings | None = None) -> tuple[list[Finding], int]:
    found: list[Finding] = []
    async with open_client(chosen) as client:
        examination = StripeExamination(client, SystemClock(), found.append)
        if await examination.access(chosen.stripe_account) and mapped is not None:
            await examination.subscriptions(mapped)
    return found, examination.reads


@pytest.fixture
def account(control: LocalApi) -> LocalApi:
    """Two prices, and a subscription with both."""
    control.call("POST", "/_sandbox/customers", {"id": "cus_1"})
    control.call("POST", "/_sandbox/prices", {"id": "price_calls"})
    control.call("POST", "/_sandbox/prices", {"id": "price_tokens", "lookup_key": "tokens"})
    subscribe(control, "sub_1", "price_calls", "price_tokens")
    return control


def subscribe(control: LocalApi, name: str, *prices: str, **more: object) -> None:
    items = [{"id": f"si_{name}_{n}", "price": price} for n, price in enumerate(prices)]
    draft = {"id": name, "customer": "cus_1", "items": items, **more}
    control.call("POST", "/_sandbox/subscriptions", draft)


def only(found: list[Finding], check: str) -> Finding:
    [finding] = [finding for finding in found if finding.check == check]
    return finding


async def test_all_is_well(account: LocalApi) -> None:
    found, reads = await looked(settings(account.url), mappings())
    assert {finding.level for finding in found} == {Level.OK}
    assert only(found, "subscription").detail == "sub_1 is active and bills calls, tokens"
    assert "2025-02-24.acacia" in only(found, "stripe_version").detail
    assert "1 of 1" in only(found, "stripe_reading").detail
    assert reads == 2


def _without_reading(control: LocalApi) -> None:
    control.call("PUT", "/_sandbox/keys", {"key": KEY, "permissions": ["rak_usage_record_write"]})


def _fault(**fault: object) -> Callable[[LocalApi], None]:
    return lambda control: control.call("POST", "/_sandbox/faults", fault) and None


ACCESS = [
    (
        "unknown key",
        {"key": "sk_test_unknown_to_stripe"},
        lambda _: None,
        ("stripe_key", Level.PROBLEM, "STRIPE_API_KEY"),
    ),
    (
        "no permission to read",
        {},
        _without_reading,
        ("stripe_reading", Level.PROBLEM, "permission"),
    ),
    (
        "an account of others",
        {"account": "acct_of_others"},
        lambda _: None,
        ("stripe_account", Level.PROBLEM, "STRIPE_ACCOUNT"),
    ),
    (
        "another version",
        {},
        _fault(kind="version_echo", version="2025-03-31.basil"),
        ("stripe_version", Level.PROBLEM, "STRIPE_API_BASE"),
    ),
    (
        "trouble at Stripe",
        {},
        _fault(kind="status", status=503),
        ("stripe_answers", Level.PROBLEM, "STRIPE_API_BASE"),
    ),
    (
        "too many calls",
        {},
        _fault(kind="rate_limited"),
        ("stripe_answers", Level.WARNING, "again"),
    ),
]


@pytest.mark.parametrize(
    ("chosen", "disturb", "expected"), [case[1:] for case in ACCESS], ids=[c[0] for c in ACCESS]
)
async def test_access_refused(
    account: LocalApi,
    chosen: dict[str, str],
    disturb: Callable[[LocalApi], None],
    expected: tuple[str, Level, str],
) -> None:
    disturb(account)
    found, reads = await looked(settings(account.url, **chosen), mappings())
    [finding] = found
    check, level, word = expected
    assert (finding.check, finding.level) == (check, level)
    assert word in finding.action
    assert chosen.get("key", KEY) not in finding.detail
    assert reads == 1


async def test_nobody_answers() -> None:
    found, _ = await looked(settings("http://127.0.0.1:1"), mappings())
    assert [(f.check, f.level) for f in found] == [("stripe_answers", Level.PROBLEM)]


def _extra_price(**draft: object) -> Callable[[LocalApi], None]:
    """The subscription `sub_2` has the price `price_extra`."""

    def create(control: LocalApi) -> None:
        control.call("POST", "/_sandbox/prices", {"id": "price_extra", **draft})
        subscribe(control, "sub_2", "price_extra")

    return create


def _changed(path: str, method: str, **body: object) -> Callable[[LocalApi], None]:
    return lambda control: control.call(method, f"/_sandbox{path}", body) and None


EXTRA = """
meters:
  - {meter: extra, price: price_extra}
subjects:
  - {subject: customer-2, subscription: sub_2}
"""
SUBSCRIPTIONS = [
    ("unknown", EXTRA, lambda _: None, Level.PROBLEM, "Stripe knows no sub_2", "right account"),
    (
        "ended",
        MAPPINGS,
        _changed("/subscriptions/sub_1/cancel", "POST"),
        Level.PROBLEM,
        "sub_1 is canceled",
        "active now",
    ),
    (
        "no item at all",
        MAPPINGS.replace("price_calls", "price_other").replace("tokens}", "others}"),
        lambda _: None,
        Level.PROBLEM,
        "sub_1 has an item for none of the mapped meters",
        "Add the price",
    ),
    (
        "one item missing",
        MAPPINGS.replace("price_calls", "price_other"),
        lambda _: None,
        Level.WARNING,
        "bills tokens; it has no item for calls",
        "parked",
    ),
    (
        "one item of a split meter missing",
        MAPPINGS.replace("price: price_calls", "price: price_other, groups: {a: b}").replace(
            "subjects:", "  - {meter: calls, price: price_calls}\nsubjects:"
        ),
        lambda _: None,
        Level.WARNING,
        "bills calls, tokens; it has no item for calls (a=b)",
        "parked",
    ),
    (
        "two items",
        MAPPINGS.replace("price_calls", "[price_calls, price_tokens]"),
        lambda _: None,
        Level.PROBLEM,
        "fits si_sub_1_0, si_sub_1_1",
        "narrowly",
    ),
    (
        "licensed",
        EXTRA,
        _extra_price(usage_type="licensed"),
        Level.PROBLEM,
        "price_extra is licensed",
        "metered price",
    ),
    (
        "billing meter",
        EXTRA,
        _extra_price(meter="mtr_1"),
        Level.PROBLEM,
        "billing meter mtr_1",
        "meter events",
    ),
    (
        "threshold of the subscription",
        MAPPINGS,
        _changed("/subscriptions/sub_1/thresholds", "PUT", amount_gte=500),
        Level.OK,
        "bills calls, tokens",
        "",
    ),
    (
        "threshold of an item",
        MAPPINGS,
        _changed("/subscription_items/si_sub_1_0/thresholds", "PUT", usage_gte=500),
        Level.OK,
        "bills calls, tokens",
        "",
    ),
    (
        "no meters yet",
        MAPPINGS[MAPPINGS.index("subjects:") :],
        lambda _: None,
        Level.OK,
        "sub_1 is active",
        "",
    ),
]


@pytest.mark.parametrize(
    ("text", "disturb", "level", "detail", "action"),
    [case[1:] for case in SUBSCRIPTIONS],
    ids=[case[0] for case in SUBSCRIPTIONS],
)
async def test_a_subscription_that_will_not_do(
    account: LocalApi,
    text: str,
    disturb: Callable[[LocalApi], None],
    level: Level,
    detail: str,
    action: str,
) -> None:
    disturb(account)
    found, _ = await looked(settings(account.url), mappings(text))
    finding = only(found, "subscription")
    assert finding.level is level
    assert detail in finding.detail
    assert action in finding.action


async def test_a_refused_read_ends_the_reading(account: LocalApi) -> None:
    subscribe(account, "sub_0", "price_calls")
    _fault(kind="status", status=503, match={"operation": "retrieve_subscription"})(account)
    both = mappings(MAPPINGS + "  - {subject: customer-0, subscription: sub_0}\n")
    found, reads = await looked(settings(account.url), both)
    assert found[-1].check == "stripe_answers"
    assert "subscription" not in [finding.check for finding in found]
    assert reads == 2


async def test_reads_are_bounded_and_counted(account: LocalApi) -> None:
    account.call("PATCH", "/_sandbox/settings", {"limit_per_second": 0})
    prices = [f"price_{number}" for number in range(11)]
    for price in prices:
        account.call("POST", "/_sandbox/prices", {"id": price})
    subjects = ""
    for number in range(45):
        name = f"sub_many_{number:02}"
        # Every second one shows more than a page of ten.
        subscribe(account, name, *(prices if number % 2 else prices[:1]))
        subjects += f"  - {{subject: customer-{number}, subscription: {name}}}\n"
    text = "meters:\n  - {meter: calls, price: price_0}\nsubjects:\n" + subjects
    found, reads = await looked(settings(account.url), mappings(text))
    assert len([finding for finding in found if finding.check == "subscription"]) == 20
    assert "20 of 45" in only(found, "stripe_reading").detail
    counts = account.call("GET", "/_sandbox/requests")["operations"]
    assert reads == sum(count["total"] for count in counts.values()) > 21


def test_the_sample_is_spread_and_stable() -> None:
    names = [f"sub_{number:03}" for number in range(100)]
    assert sample(names, 4) == ["sub_000", "sub_025", "sub_050", "sub_075"]
    assert sample(names[:3], 4) == names[:3]
    assert sample([], 4) == []


def test_only_what_is_mapped_now_is_read() -> None:
    def at(year: int) -> datetime:
        return datetime(year, 1, 1, tzinfo=UTC)

    spans = {
        "a": (
            SubjectMapping("a", "sub_old", None, at(2025)),
            SubjectMapping("a", "sub_new", at(2025), None),
        ),
        "b": (SubjectMapping("b", "sub_new"),),
        "c": (SubjectMapping("c", "sub_coming", at(2030), None),),
    }
    assert mapped_now(spans, at(2026)) == ["sub_new"]


@pytest.mark.parametrize(
    ("key", "base", "level", "words"),
    [
        ("sk_test_1", "https://api.stripe.com", Level.OK, "a secret key, test mode"),
        ("rk_test_1", "https://api.stripe.com", Level.OK, "a restricted key, test mode"),
        ("rk_live_1", "https://api.stripe.com", Level.OK, "LIVE mode"),
        ("sk_test_1", "http://127.0.0.1:12111", Level.OK, "http://127.0.0.1:12111"),
        ("sk_live_1", "https://stripe.example", Level.WARNING, "not Stripe's own address"),
    ],
)
def test_what_the_key_says(key: str, base: str, level: Level, words: str) -> None:
    finding = key_finding(settings(base, key=key))
    assert finding.level is level
    assert words in finding.detail
    assert key not in finding.detail
