"""What is proposed, and what is only told: tables of cases, and properties of any reading."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.mapping.discovery import ACTIONS, Discovery, Doubt, discover
from app.mapping.evidence import (
    LIVE,
    AttributedCustomer,
    Attribution,
    CustomerRead,
    Gap,
    Reading,
    Source,
    SubscriptionRead,
    subjects_in,
)
from app.mapping.models import PriceSelector, SnapshotItem, SubjectMapping

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PRICES = (PriceSelector(ids=frozenset({"price_1"})), PriceSelector(lookup_key="tokens"))


def item(price: str = "price_1", **members: str | None) -> SnapshotItem:
    told: dict[str, str | None] = {"lookup_key": None, "usage_type": "metered"}
    told |= {"billing_meter": None} | members
    return SnapshotItem(
        id="si_1",
        price_id=price,
        lookup_key=told["lookup_key"],
        price_metadata=(),
        usage_type=told["usage_type"],
        aggregate_usage="sum",
        billing_meter=told["billing_meter"],
        billing_thresholds=False,
        period_start=NOW - HOUR,
        period_end=NOW + HOUR,
    )


def sub(
    name: str,
    customer: str = "cus_1",
    named: str = "",
    *,
    status: str = "active",
    items: tuple[SnapshotItem, ...] = (item(),),
) -> SubscriptionRead:
    return SubscriptionRead(name, customer, status, items, named)


def attributed(subject: str, *customers: tuple[str, str | None]) -> Attribution:
    return Attribution(subject, tuple(AttributedCustomer(*customer) for customer in customers))


def found(reading: Reading, *spans: SubjectMapping) -> Discovery:
    existing: dict[str, tuple[SubjectMapping, ...]] = {}
    for span in spans:
        existing[span.subject] = (*existing.get(span.subject, ()), span)
    return discover(reading, prices=PRICES, existing=existing, now=NOW)


@dataclass(frozen=True)
class Proven:
    """A reading that proves exactly acme -> sub_1."""

    reading: Reading
    source: Source
    why: str


PROVEN = {
    "named by the subscription": Proven(
        Reading((sub("sub_1", named="acme"), sub("sub_2"))), Source.STRIPE, "metadata of sub_1"
    ),
    "named by a subscription without a mapped price": Proven(
        Reading((sub("sub_1", named="acme", items=(item("price_9"),)),)),
        Source.STRIPE,
        "metadata of sub_1, of which no item has a mapped price yet",
    ),
    "named by the customer": Proven(
        Reading((sub("sub_1"),), (CustomerRead("cus_1", "acme"),)),
        Source.STRIPE,
        "metadata of cus_1: sub_1",
    ),
    "the customer's only one with a mapped price": Proven(
        Reading(
            (
                sub("sub_1", items=(item("price_9"), item("price_8", lookup_key="tokens"))),
                sub("sub_2", items=(item("price_9"),)),
                sub("sub_3", items=(item(usage_type="licensed"),)),
                sub("sub_4", items=(item(billing_meter="mtr_1"),)),
                sub("sub_5", items=()),
                sub("sub_6", "cus_2"),
            ),
            (CustomerRead("cus_1", "acme"),),
        ),
        Source.STRIPE,
        "metadata of cus_1: sub_1",
    ),
    "the customer's only live one": Proven(
        Reading(
            (
                sub("sub_1", status="past_due"),
                sub("sub_2", status="incomplete"),
                sub("sub_3", status="paused"),
                sub("sub_4", status="canceled"),
            ),
            (CustomerRead("cus_1", "acme"),),
        ),
        Source.STRIPE,
        "metadata of cus_1: sub_1",
    ),
    "the subscription decides where the customer leaves it open": Proven(
        Reading(
            (sub("sub_1", named="acme"), sub("sub_2")),
            (CustomerRead("cus_1", "acme"),),
        ),
        Source.STRIPE,
        "metadata of cus_1: sub_1, sub_2; metadata of sub_1",
    ),
    "a subscription that is not live does not count": Proven(
        Reading((sub("sub_1", named="acme"), sub("sub_2", named="acme", status="canceled"))),
        Source.STRIPE,
        "metadata of sub_1",
    ),
    "OpenMeter's customer": Proven(
        Reading((sub("sub_1"),), (), (attributed("acme", ("01A", "cus_1")),)),
        Source.OPENMETER,
        "OpenMeter's customer 01A is cus_1: sub_1",
    ),
    "both agree": Proven(
        Reading((sub("sub_1", named="acme"),), (), (attributed("acme", ("01A", "cus_1")),)),
        Source.BOTH,
        "OpenMeter's customer 01A is cus_1: sub_1; metadata of sub_1",
    ),
    "OpenMeter does not know what Stripe says": Proven(
        Reading((sub("sub_1", named="acme"),), (), (attributed("acme"),)),
        Source.STRIPE,
        "metadata of sub_1",
    ),
}


@pytest.mark.parametrize("name", PROVEN)
def test_what_is_proven_is_proposed(name: str) -> None:
    case = PROVEN[name]
    seen = found(case.reading)
    [proposal] = seen.proposals
    assert (proposal.subject, proposal.subscription) == ("acme", "sub_1")
    assert (proposal.source, proposal.why) == (case.source, case.why)
    assert (seen.ambiguous, seen.unresolved, seen.already_mapped) == ((), (), 0)


TWO_SUBS = (sub("sub_1"), sub("sub_2"))
APART = (sub("sub_1"), sub("sub_2", "cus_2"))
NAMED_APART = (sub("sub_1", named="acme"), sub("sub_2", "cus_2"))
DOUBTFUL = {
    "named by two subscriptions": (
        Reading((sub("sub_1", named="acme"), sub("sub_2", "cus_2", "acme"))),
        Doubt.NAMED_TWICE,
    ),
    "named by two subscriptions of one customer": (
        Reading((sub("sub_1", named="acme"), sub("sub_2", named="acme"))),
        Doubt.NAMED_TWICE,
    ),
    "two subscriptions of the customer": (
        Reading(TWO_SUBS, (CustomerRead("cus_1", "acme"),)),
        Doubt.SEVERAL_SUBSCRIPTIONS,
    ),
    "two subscriptions of OpenMeter's customer": (
        Reading(TWO_SUBS, (), (attributed("acme", ("01A", "cus_1")),)),
        Doubt.SEVERAL_SUBSCRIPTIONS,
    ),
    "named by two customers": (
        Reading(APART, (CustomerRead("cus_1", "acme"), CustomerRead("cus_2", "acme"))),
        Doubt.SEVERAL_CUSTOMERS,
    ),
    "two customers at OpenMeter": (
        Reading(APART, (), (attributed("acme", ("01A", "cus_1"), ("01B", "cus_2")),)),
        Doubt.SEVERAL_CUSTOMERS,
    ),
    "the customer's metadata and the subscription's": (
        Reading(NAMED_APART, (CustomerRead("cus_2", "acme"),)),
        Doubt.SOURCES_DISAGREE,
    ),
    "Stripe and OpenMeter": (
        Reading(NAMED_APART, (), (attributed("acme", ("01A", "cus_2")),)),
        Doubt.SOURCES_DISAGREE,
    ),
    "the named one is not the one with a mapped price": (
        Reading(
            (sub("sub_1", named="acme", items=(item("price_9"),)), sub("sub_2")),
            (CustomerRead("cus_1", "acme"),),
        ),
        Doubt.SOURCES_DISAGREE,
    ),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_in_doubt_is_told(name: str) -> None:
    reading, doubt = DOUBTFUL[name]
    seen = found(reading)
    [ambiguous] = seen.ambiguous
    assert (ambiguous.subject, ambiguous.doubt) == ("acme", doubt)
    assert ambiguous.candidates == ("sub_1", "sub_2")
    assert ambiguous.why
    assert (seen.proposals, seen.unresolved) == ((), ())


ONE_LEADS_NOWHERE = {
    "a second customer without a subscription": Reading(
        (sub("sub_1"),), (CustomerRead("cus_1", "acme"), CustomerRead("cus_2", "acme"))
    ),
    "a second customer of OpenMeter's that is none at Stripe": Reading(
        (sub("sub_1"),), (), (attributed("acme", ("01A", "cus_1"), ("01B", None)),)
    ),
    "two customers of OpenMeter's that are one at Stripe": Reading(
        (sub("sub_1"),), (), (attributed("acme", ("01A", "cus_1"), ("01B", "cus_1")),)
    ),
    "OpenMeter's customer without a subscription": Reading(
        (sub("sub_1", named="acme"),), (), (attributed("acme", ("01A", "cus_2")),)
    ),
}


@pytest.mark.parametrize("name", ONE_LEADS_NOWHERE)
def test_two_payers_are_in_doubt_even_where_only_one_has_a_subscription(name: str) -> None:
    seen = found(ONE_LEADS_NOWHERE[name])
    assert [one.candidates for one in seen.ambiguous] == [("sub_1",)]
    assert seen.proposals == ()


UNRESOLVED = {
    "a canceled subscription": (
        Reading((sub("sub_1", named="acme", status="canceled"),)),
        Gap.NOT_LIVE,
        "metadata of sub_1, which is canceled",
    ),
    "a customer without a subscription": (
        Reading((), (CustomerRead("cus_1", "acme"),)),
        Gap.NO_SUBSCRIPTION,
        "cus_1: no active subscription with a mapped price",
    ),
    "a customer without a mapped price": (
        Reading((sub("sub_1", items=(item("price_9"),)),), (CustomerRead("cus_1", "acme"),)),
        Gap.NO_SUBSCRIPTION,
        "cus_1: no active subscription with a mapped price",
    ),
    "nobody at OpenMeter": (
        Reading((), (), (attributed("acme"),)),
        Gap.NO_CUSTOMER,
        "exactly this subject",
    ),
    "a customer that is none at Stripe": (
        Reading((), (), (attributed("acme", ("01A", None)),)),
        Gap.NO_STRIPE_CUSTOMER,
        "01A is no customer at Stripe",
    ),
    "a question that is refused": (
        Reading((), (), (Attribution("acme", refusal="HTTP 400"),)),
        Gap.REFUSED,
        "HTTP 400",
    ),
}


@pytest.mark.parametrize("name", UNRESOLVED)
def test_what_leads_nowhere_is_told(name: str) -> None:
    reading, gap, why = UNRESOLVED[name]
    seen = found(reading)
    [unresolved] = seen.unresolved
    assert (unresolved.subject, unresolved.gap) == ("acme", gap)
    assert why in unresolved.why
    assert (seen.proposals, seen.ambiguous) == ((), ())


NAMED = Reading((sub("sub_1", named="acme"), sub("sub_2")))


@pytest.mark.parametrize(
    "spans",
    [
        [SubjectMapping("acme", "sub_1")],
        [SubjectMapping("acme", "sub_0", None, NOW), SubjectMapping("acme", "sub_1", NOW)],
        [SubjectMapping("acme", "sub_1", None, NOW + HOUR)],
        [SubjectMapping("acme", "sub_1", NOW + HOUR)],
    ],
)
def test_what_is_mapped_so_already_is_only_counted(spans: list[SubjectMapping]) -> None:
    assert found(NAMED, *spans) == Discovery(already_mapped=1)


@pytest.mark.parametrize(
    "spans",
    [
        [SubjectMapping("acme", "sub_0")],
        [SubjectMapping("acme", "sub_0", None, NOW)],
        [SubjectMapping("acme", "sub_1", None, NOW)],
    ],
)
def test_a_subject_that_has_another_mapping_is_not_touched(spans: list[SubjectMapping]) -> None:
    seen = found(NAMED, *spans)
    assert seen.proposals == ()
    [ambiguous] = seen.ambiguous
    assert ambiguous.doubt is Doubt.MAPPED_OTHERWISE
    assert set(ambiguous.candidates) == {"sub_1", spans[0].subscription}
    assert f"mapped to {spans[0].subscription}" in ambiguous.why


def test_what_an_operator_has_decided_is_no_doubt() -> None:
    reading, _ = DOUBTFUL["two subscriptions of the customer"]
    assert found(reading, SubjectMapping("acme", "sub_2")) == Discovery(already_mapped=1)
    assert found(reading, SubjectMapping("acme", "sub_9")).ambiguous[0].candidates == (
        "sub_1",
        "sub_2",
    )


def test_a_mapped_subject_that_leads_nowhere_is_of_no_interest() -> None:
    reading = Reading((), (CustomerRead("cus_1", "acme"),))
    assert found(reading, SubjectMapping("acme", "sub_1")) == Discovery()


@pytest.mark.parametrize(
    ("value", "subjects"),
    [
        ("acme", ["acme"]),
        ("acme,globex", ["acme", "globex"]),
        (" acme ,\tglobex\n initech;x ", ["acme", "globex", "initech;x"]),
        ("acme acme", ["acme"]),
        ("Acme acme", ["Acme", "acme"]),
        (" , ,", []),
        ("", []),
    ],
)
def test_several_subjects_in_one_value(value: str, subjects: list[str]) -> None:
    assert subjects_in(value) == subjects
    seen = found(Reading((sub("sub_1", named=value),)))
    assert [one.subject for one in seen.proposals] == subjects


@pytest.mark.parametrize("name", ["a\x00b", "\x1b[31m", "\ud800", "x" * 513])
def test_a_subject_that_no_file_could_name(name: str) -> None:
    seen = found(Reading((sub("sub_1", named=name),)))
    [unresolved] = seen.unresolved
    assert unresolved.gap is Gap.UNUSABLE_NAME
    assert unresolved.subject.isprintable()
    assert unresolved.subject.encode()
    assert seen.proposals == ()


def test_everything_that_is_told_says_what_to_do() -> None:
    assert set(ACTIONS) == {*Doubt, *Gap}


SUBJECTS = st.sampled_from(["acme", "globex", "ACME"])
VALUES = st.lists(SUBJECTS, max_size=2).map(" ".join)
CUSTOMERS = st.sampled_from(["cus_1", "cus_2", "cus_3"])
STATUSES = st.sampled_from(["active", "trialing", "canceled", "paused"])
SUBSCRIPTIONS = st.lists(
    st.builds(
        SubscriptionRead,
        st.sampled_from([f"sub_{n}" for n in range(5)]),
        CUSTOMERS,
        STATUSES,
        st.sampled_from([(item(),), (item("price_9"),), ()]),
        VALUES,
    ),
    max_size=5,
    unique_by=lambda subscription: subscription.id,
).map(tuple)
NAMERS = st.lists(
    st.builds(CustomerRead, CUSTOMERS, VALUES), max_size=3, unique_by=lambda customer: customer.id
).map(tuple)
ATTRIBUTIONS = st.lists(
    st.builds(
        Attribution,
        SUBJECTS,
        st.lists(
            st.builds(AttributedCustomer, st.sampled_from(["01A", "01B"]), st.none() | CUSTOMERS),
            max_size=2,
            unique_by=lambda customer: customer.id,
        ).map(tuple),
    ),
    max_size=3,
    unique_by=lambda attribution: attribution.subject,
).map(tuple)
READINGS = st.builds(Reading, SUBSCRIPTIONS, NAMERS, ATTRIBUTIONS)
SPANS = st.lists(
    st.builds(SubjectMapping, SUBJECTS, st.sampled_from(["sub_0", "sub_9"])), max_size=1
)


def supports(reading: Reading, subject: str) -> tuple[set[str], set[str]]:
    """By brute force: the customers that anything said of a subject leads to, and the live
    subscriptions that name it."""
    naming = {s for s in reading.subscriptions if s.status in LIVE and subject in s.named.split()}
    payers = {s.customer for s in naming}
    payers |= {c.id for c in reading.customers if subject in c.named.split()}
    for one in reading.attributions:
        if one.subject == subject:
            payers |= {c.stripe_customer for c in one.customers if c.stripe_customer}
    return payers, {s.id for s in naming}


@given(READINGS)
def test_a_proposal_has_one_payer_and_one_subscription(reading: Reading) -> None:
    held = {s.id: s for s in reading.subscriptions}
    for proposal in found(reading).proposals:
        payers, naming = supports(reading, proposal.subject)
        chosen = held[proposal.subscription]
        assert payers == {chosen.customer}
        assert chosen.status in LIVE
        assert naming <= {chosen.id}
        if not naming:
            others = [
                s
                for s in reading.subscriptions
                if s.customer == chosen.customer and s.status in LIVE and s.items == (item(),)
            ]
            assert others == [chosen]


@given(READINGS, SPANS)
def test_every_subject_is_told_once_and_none_is_lost(
    reading: Reading, spans: list[SubjectMapping]
) -> None:
    seen = found(reading, *spans)
    told = [one.subject for one in seen.proposals]
    told += [one.subject for one in seen.ambiguous]
    told += [one.subject for one in seen.unresolved]
    assert len(told) == len(set(told))
    mentioned = {a.subject for a in reading.attributions}
    values = [one.named for one in reading.subscriptions]
    values += [one.named for one in reading.customers]
    mentioned |= {subject for value in values for subject in value.split()}
    mapped = {span.subject for span in spans}
    assert not mapped & {one.subject for one in seen.proposals}
    assert set(told) <= mentioned <= set(told) | mapped
    assert len(set(told)) + seen.already_mapped <= len(mentioned)


@given(READINGS, st.randoms(use_true_random=False))
def test_the_order_of_reading_decides_nothing(reading: Reading, random: Random) -> None:
    other = Reading(
        tuple(random.sample(reading.subscriptions, len(reading.subscriptions))),
        tuple(random.sample(reading.customers, len(reading.customers))),
        tuple(random.sample(reading.attributions, len(reading.attributions))),
    )
    assert found(other) == found(reading)


@given(READINGS, ATTRIBUTIONS)
def test_another_source_confirms_or_doubts_but_never_replaces(
    reading: Reading, attributions: tuple[Attribution, ...]
) -> None:
    alone = found(replace(reading, attributions=()))
    together = found(replace(reading, attributions=attributions))
    chosen = {one.subject: one.subscription for one in together.proposals}
    doubted = {one.subject for one in together.ambiguous}
    for proposal in alone.proposals:
        if proposal.subject not in doubted:
            assert chosen[proposal.subject] == proposal.subscription
