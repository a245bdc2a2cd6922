"""Idempotency keys: another fact, another key; the same fact, the same key."""

from hypothesis import given
from hypothesis import strategies as st

from app.dispatch.keys import LONGEST, idempotency_key, next_key

VISIBLE = st.text(alphabet=[chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=256)
ITEMS = st.text(alphabet="abcXYZ019_-", min_size=1, max_size=60).map(lambda text: f"si_{text}")
FACTS = st.tuples(
    VISIBLE,
    ITEMS,
    st.integers(0, 2**40),
    st.integers(0, 2**31),
    st.integers(0, 10**30),
    st.integers(0, 40),
)
# What differs in one place only, and what could be read as the other when it is run together.
NEAR = [
    ("msg_1", "si_1", 100, 1, 5, 0),
    ("msg_2", "si_1", 100, 1, 5, 0),
    ("msg_1", "si_2", 100, 1, 5, 0),
    ("msg_1", "si_1", 101, 1, 5, 0),
    ("msg_1", "si_1", 100, 2, 5, 0),
    ("msg_1", "si_1", 100, 1, 6, 0),
    ("msg_1", "si_1", 100, 1, 5, 1),
    ("msg_1", "si_1", 100, 1, 5, 12),
    ("msg_1-si_1", "si_1", 100, 1, 5, 0),
    ("msg_1", "si_1-si_1", 100, 1, 5, 0),
    ("msg_1-100", "si_1", 100, 1, 5, 0),
    ("msg_1~1", "si_1", 100, 1, 5, 0),
    ("m" * 256, "si_1", 100, 1, 5, 0),
    ("m" * 256, "si_1", 100, 1, 5, 1),
    ("m" * 256, "si_1", 100, 1, 6, 0),
    ("m" * 255 + "n", "si_1", 100, 1, 5, 0),
]


def test_the_key_names_delivery_item_window_revision_and_quantity() -> None:
    assert idempotency_key("msg_1", "si_1", 100, 1, 5) == "mb-msg_1-si_1-100-r1-q5"
    assert len({idempotency_key(*fact) for fact in NEAR}) == len(NEAR)


@given(FACTS, FACTS)
def test_two_facts_never_share_a_key(
    one: tuple[str, str, int, int, int, int], other: tuple[str, str, int, int, int, int]
) -> None:
    assert (idempotency_key(*one) == idempotency_key(*other)) == (one == other)


@given(FACTS)
def test_a_key_is_pure_and_fits_into_the_header(
    fact: tuple[str, str, int, int, int, int],
) -> None:
    key = idempotency_key(*fact)
    assert key == idempotency_key(*fact)
    assert len(key) <= LONGEST + len("~40")
    assert all("!" <= char <= "~" for char in key)


@given(FACTS, st.integers(1, 99), st.integers(1, 99))
def test_a_next_key_replaces_the_suffix_and_never_piles_them_up(
    fact: tuple[str, str, int, int, int, int], one: int, other: int
) -> None:
    key = idempotency_key(*fact)
    assert next_key(key, one) != idempotency_key(*fact[:5])
    assert next_key(next_key(key, one), other) == next_key(key, other)
    assert (next_key(key, one) == next_key(key, other)) == (one == other)
