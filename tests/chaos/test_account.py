"""The account and the comparison: they find what is wrong, and nothing where all is right."""

import ast
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from tests.chaos.account import Account, Item, Order, Period, Window, half_up, owed
from tests.chaos.books import Call, standing
from tests.chaos.mappings import Mappings, MeterEntry, Span
from tests.chaos.sabotage import SABOTAGE, Evidence
from tests.chaos.verdict import Fate, Verdict, compare

ITEMS = [
    Item("si_1_sum", "sub_1", "price_1", "sum", 0),
    Item("si_1_large_sum", "sub_1", "price_large", "sum", 0),
    Item("si_1_max", "sub_1", "price_peak", "max", 0),
    Item("si_2_sum", "sub_2", "price_1", "sum", 0),
]
PERIODS = {item.id: [Period(1_000, 2_000), Period(0, 1_000)] for item in ITEMS}
INDEPENDENT = (
    "account",
    "books",
    "changes",
    "mappings",
    "messages",
    "sabotage",
    "usage",
    "verdict",
    "world",
)
LARGE = (("model", "large"),)


def mappings() -> Mappings:
    """Two subjects on one subscription, one of which leaves for another at second 900."""
    return Mappings(
        {
            "tokens": (
                MeterEntry("price_large", LARGE, Fraction(1, 10)),
                MeterEntry("price_1", scale=Fraction(1, 10)),
            ),
            "peak": (MeterEntry("price_peak"),),
        },
        {
            "a": (Span("sub_1"),),
            "b": (Span("sub_1", until=900), Span("sub_2", since=900)),
        },
    )


def window(subject: str, end: int, meter: str = "tokens", groups: tuple[str, ...] = ()) -> Window:
    return Window(meter, subject, LARGE if groups else (), end - 100, end)


TOLD = {
    window("a", 500): Decimal(12),
    window("a", 1_001): Decimal(100),  # its last second is that of the period's end
    window("a", 1_002): Decimal(7),
    window("a", 600, groups=("large",)): Decimal("0.5"),
    window("a", 700, groups=("large",)): Decimal("4.5"),
    window("b", 800): Decimal(23),
    window("b", 901): Decimal(40),
    window("a", 300, "peak"): Decimal(9),
    window("a", 400, "peak"): Decimal(3),
    window("nobody", 500): Decimal(77),
    window("a", 0): Decimal(88),  # before the subscription began
}


def accounted() -> Account:
    account = Account()
    account.tell(Order(5, "msg_b"), TOLD)
    account.tell(Order(4, "msg_z"), dict.fromkeys(TOLD, Decimal(1_000)))  # older, and came later
    account.tell(Order(5, "msg_a"), dict.fromkeys(TOLD, Decimal(2_000)))  # as old: the id decides
    return account


CALLS = [
    Call("si_1_sum", 0, 499, 3, "set", "k1"),
    Call("si_1_sum", 0, 499, 2, "set", "k2"),
    Call("si_1_sum", 0, 799, 2, "set", "k3"),
    Call("si_1_sum", 0, 1_000, 10, "set", "k4"),
    Call("si_1_sum", 1_000, 1_001, 1, "set", "k5"),
    Call("si_1_large_sum", 0, 599, 1, "increment", "k6"),
    Call("si_1_max", 0, 299, 9, "set", "k7"),
    Call("si_1_max", 0, 399, 3, "set", "k8"),
    Call("si_2_sum", 0, 900, 4, "set", "k9"),
]
PARKED = {window("nobody", 500): "no_subject_mapping", window("a", 0): "before_subscription"}


def fates() -> dict[Window, Fate]:
    return {
        told: Fate("parked" if told in PARKED else "booked", PARKED.get(told), value)
        for told, value in TOLD.items()
    }


def judge(calls: list[Call], found: dict[Window, Fate]) -> Verdict:
    account = accounted()
    due = owed(account, mappings(), ITEMS, PERIODS)
    return compare(account, due, standing(calls, ITEMS), calls, found)


def test_what_is_right_is_found_right() -> None:
    verdict = judge(CALLS, fates())
    assert verdict.findings == ()
    assert (verdict.windows, verdict.units, verdict.at_stripe) == (11, 29, 29)
    assert verdict.parked == {"no_subject_mapping": 1, "before_subscription": 1}
    assert (verdict.lost, verdict.doubled, verdict.early, verdict.unaccounted) == (0, 0, 0, 0)


def test_what_is_late_may_be_billed_in_a_later_period_and_not_in_an_earlier_one() -> None:
    carried = [c for c in CALLS if c.key != "k3"]
    carried.append(Call("si_1_sum", 1_000, 1_001, 3, "set", "k10"))
    assert judge(carried, fates()).clean
    ahead = [c for c in CALLS if c.key != "k5"]
    ahead.append(Call("si_1_sum", 0, 998, 1, "set", "k10"))
    verdict = judge(ahead, fates())
    assert (verdict.early, verdict.lost, verdict.doubled) == (1, 0, 0)
    assert not verdict.clean


@pytest.mark.parametrize(
    ("way", "lost", "doubled", "unaccounted"),
    [("lose", 4, 0, 0), ("double", 0, 4, 0), ("forget", 0, 0, 1), ("stale", 0, 0, 1)],
)
def test_what_is_falsified_is_found(way: str, lost: int, doubled: int, unaccounted: int) -> None:
    spoiled = SABOTAGE[way](Evidence(CALLS, fates()))
    verdict = judge(list(spoiled.calls), dict(spoiled.fates))
    assert (verdict.lost, verdict.doubled, verdict.unaccounted) == (lost, doubled, unaccounted)
    assert not verdict.clean


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (Fate("pending", None, TOLD[window("a", 500)]), "pending"),
        (Fate("parked", "item_not_found", TOLD[window("a", 500)]), "item_not_found"),
    ],
)
def test_a_window_that_is_not_where_it_belongs_is_named(fate: Fate, said: str) -> None:
    verdict = judge(CALLS, fates() | {window("a", 500): fate})
    assert verdict.unaccounted == 1
    assert said in verdict.findings[0]


def test_a_window_that_is_billed_though_nobody_pays_is_named() -> None:
    billed = {told: fate._replace(state="booked", reason=None) for told, fate in fates().items()}
    assert judge(CALLS, billed).unaccounted == 2


def test_a_window_that_nobody_sent_is_named() -> None:
    verdict = judge(CALLS, fates() | {window("forger", 500): Fate("booked", None, Decimal(1))})
    assert verdict.unaccounted == 1


def test_one_key_executed_twice_is_found_though_the_sums_are_right() -> None:
    verdict = judge([*CALLS, CALLS[-1]], fates())
    assert (verdict.twice, verdict.clean) == (1, False)


@pytest.mark.parametrize(
    ("value", "rounded"), [("0", 0), ("0.5", 1), ("1.49999", 1), ("2.5", 3), ("7", 7)]
)
def test_a_half_goes_up(value: str, rounded: int) -> None:
    assert half_up(Fraction(value)) == rounded


@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_account_shares_no_code_with_the_program(name: str) -> None:
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
    imported = {
        module
        for node in ast.walk(tree)
        for module in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert not any(module.split(".")[0] == "app" for module in imported)
    ours = {module.removeprefix("tests.chaos.") for module in imported if "chaos" in module}
    assert ours <= set(INDEPENDENT)
