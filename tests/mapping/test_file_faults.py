"""What is wrong with a mapping file is told by its path, and never repeated."""

import pytest

from app.errors import InvalidMapping
from app.mapping.file import from_yaml, to_mappings


def read(text: str) -> None:
    to_mappings(from_yaml(text))


def groups(count: int, value: str) -> str:
    return "{" + ", ".join(f"g{number}: {value}" for number in range(count)) + "}"


ENTRY = "{meter: m, price: p"
METER = "meters: [{{meter: m, price: p, {}}}]"
SPLIT = "meters: [{{meter: m, price: p, groups: {}}}, {{meter: m, price: q, groups: {}}}]"
PRICE = "meters: [{{meter: m, {}}}]"
SUBJECT = "subjects: [{{subject: s, subscription: sub, {}}}]"
SHOUT = "SECRET"

BAD = [
    # YAML
    ("meters: [", "line 1"),
    ("a: b\n  c: [SECRET", "line 2"),
    ("a: b: c", "line 1"),
    ("\tmeters: []", "line 1"),
    ("%SECRET", "line 1"),
    ("meters: []\n---\nmeters: []", "line 2"),
    ("meters: *SECRET", "line 1"),
    ("meters: &a [*a]", "line 1"),
    ("&a {meters: *a}", "line 1"),
    ("? [1]\n: 2", "line 1"),
    ("{a: b}: c", "line 1"),
    ("subjects: [{subject: SECRET\0}]", "the file"),
    ("subjects: [{subject: \x1b}]", "the file"),
    ("[" * 5_000, "the file"),
    ("{a: " * 5_000, "the file"),
    # a key twice: YAML would keep the last and say nothing
    ("meters: []\nsubjects: []\nmeters: []", "line 3"),
    ("subjects:\n  - subject: s\n    subscription: sub_1\n    subscription: sub_2", "line 4"),
    ("meters: [{meter: m, metadata: {a: 1, 'a': 2}}]", "line 1"),
    # shape
    ("[]", "the file"),
    ("- SECRET", "the file"),
    ("SECRET", "the file"),
    ("!!python/object/apply:os.system [SECRET]", "the file"),
    ("colours: SECRET", "colours"),
    ("<<: {meters: []}", "<<"),
    ("meters:", "meters"),
    ("meters: SECRET", "meters"),
    ("meters: {meter: m, price: p}", "meters"),
    ("meters: [SECRET]", "meters[0]"),
    ("meters: [[SECRET]]", "meters[0]"),
    ("subjects:\n  subject: s", "subjects"),
    # meters
    ("meters: [{price: p}]", "meters[0].meter"),
    ("meters: [{meter: SECRET, price: p}]", "meters[0].meter"),
    ("meters: [{meter: a__b, price: p}]", "meters[0].meter"),
    ("meters: [{meter: _, price: p}]", "meters[0].meter"),
    (f"meters: [{{meter: {'a' * 65}, price: p}}]", "meters[0].meter"),
    ('meters: [{meter: "m\\n", price: p}]', "meters[0].meter"),
    ("meters: [{meter: m, price: p}, {meter: m, price: q}]", "meters[1].meter"),
    (METER.format("colour: SECRET"), "meters[0].colour"),
    (METER.format("rounding: SECRET"), "meters[0].rounding"),
    (METER.format("rounding: HALF_UP"), "meters[0].rounding"),
    (METER.format("timestamp: now"), "meters[0].timestamp"),
    # scale
    *[
        (METER.format(f"scale: {scale}"), "meters[0].scale")
        for scale in (
            "SECRET",
            "''",
            "' 1'",
            "0",
            "0.0",
            "-1",
            "+1",
            "1e3",
            "1_000",
            "'1,5'",
            "0x10",
            ".5",
            "1.",
            "1/0",
            "0/5",
            "1/-3",
            "1/2/3",
            "0.5/2",
            "nan",
            "inf",
            "\u0663",  # an Arabic three, which Fraction() takes
            "[1]",
            "{a: 1}",
            "1" * 31,
        )
    ],
    # price
    ("meters: [{meter: m}]", "meters[0].price"),
    (PRICE.format("price: ''"), "meters[0].price"),
    (PRICE.format("price: SECRET SECRET"), "meters[0].price"),
    (PRICE.format("price: []"), "meters[0].price"),
    (PRICE.format("price: [a, 'SECRET ']"), "meters[0].price[1]"),
    (PRICE.format("price: [a, [b]]"), "meters[0].price[1]"),
    (PRICE.format("price: {}"), "meters[0].price"),
    (PRICE.format("price: {lookup_key: SECRET, metadata: {a: b}}"), "meters[0].price"),
    (PRICE.format("price: {id: SECRET}"), "meters[0].price.id"),
    (PRICE.format("lookup_key: ''"), "meters[0].price.lookup_key"),
    (PRICE.format("metadata: {}"), "meters[0].price"),
    (PRICE.format("metadata: {a: [SECRET]}"), "meters[0].price.metadata.a"),
    (PRICE.format("lookup_key: a, metadata: {a: b}"), "meters[0].price"),
    (PRICE.format("price: a, lookup_key: SECRET"), "meters[0].lookup_key"),
    # groups
    (METER.format("groups: SECRET"), "meters[0].groups"),
    (METER.format("groups: {}"), "meters[0].groups"),
    (METER.format("groups: [SECRET]"), "meters[0].groups"),
    (METER.format("groups:"), "meters[0].groups"),
    (METER.format("groups: {model: [SECRET]}"), "meters[0].groups.model"),
    (METER.format("groups: {model: {a: SECRET}}"), "meters[0].groups.model"),
    (METER.format("groups: {'': SECRET}"), "meters[0].groups..[key]"),
    (METER.format('groups: {model: "SECRET\\0"}'), "meters[0].groups.model"),
    (METER.format('groups: {model: "SECRET\\ud800"}'), "meters[0].groups.model"),
    (METER.format(f"groups: {{model: {'S' * 501}}}"), "meters[0].groups.model"),
    (METER.format(f"groups: {groups(9, 'a')}"), "meters[0].groups"),
    (METER.format(f"groups: {groups(4, 'ü' * 250)}"), "meters[0].groups"),
    # what two entries would both take
    (SPLIT.format("{model: SECRET}", "{model: SECRET}"), "meters[1].groups"),
    (SPLIT.format("{model: SECRET}", "{region: SECRET}"), "meters[1].groups"),
    (SPLIT.format("{model: SECRET}", "{region: SECRET, model: SECRET}"), "meters[1].groups"),
    (SPLIT.format("{model: SECRET, region: eu}", "{region: eu}"), "meters[1].groups"),
    (f"meters: [{ENTRY}, groups: {{a: b}}}}, {ENTRY}}}, {ENTRY}}}]", "meters[2].meter"),
    # records
    (METER.format("record_per: SECRET"), "meters[0].record_per"),
    (METER.format("record_per: minute"), "meters[0].record_per"),
    (METER.format("late: SECRET"), "meters[0].late"),
    (METER.format("late: ''"), "meters[0].late"),
    (METER.format("late_policy: hold"), "meters[0].late_policy"),
    *[
        (METER.format(f"whole_period: {flag}"), "meters[0].whole_period")
        for flag in ("SECRET", "yes", "on", "1", "True", "''", "[true]")
    ],
    (METER.format("whole_period: true, record_per: hour"), "meters[0].record_per"),
    (METER.format("whole_period: true, record_per: day"), "meters[0].record_per"),
    (
        METER.format("groups: {a: b}, whole_period: true, record_per: day"),
        "meters[0].record_per",
    ),
    (
        "meters: [{meter: m, price: p, whole_period: true}, {meter: m, price: q, groups: {a: b}}]",
        "meters[0].whole_period",
    ),
    # subjects
    ("subjects: [{subscription: sub}]", "subjects[0].subject"),
    ("subjects: [{subject: s}]", "subjects[0].subscription"),
    ("subjects: [{subject: '', subscription: sub}]", "subjects[0].subject"),
    (f"subjects: [{{subject: {'s' * 513}, subscription: sub}}]", "subjects[0].subject"),
    ('subjects: [{subject: "SECRET\\0", subscription: sub}]', "subjects[0].subject"),
    ('subjects: [{subject: "SECRET\\ud800", subscription: sub}]', "subjects[0].subject"),
    ("subjects: [{subject: s, subscription: 'sub SECRET'}]", "subjects[0].subscription"),
    (SUBJECT.format("valid_from: SECRET"), "subjects[0].valid_from"),
    (SUBJECT.format("valid_from: 2026-02-30"), "subjects[0].valid_from"),
    (SUBJECT.format("valid_from: 2026-02-01T00:00:00"), "subjects[0].valid_from"),
    (SUBJECT.format("valid_from: 1767225600"), "subjects[0].valid_from"),
    (SUBJECT.format("valid_to: 9999-12-31T23:59:59-01:00"), "subjects[0].valid_to"),
    (SUBJECT.format("valid_to: 0001-01-01T00:00:00+01:00"), "subjects[0].valid_to"),
    (SUBJECT.format("valid_to: 0001-01-01T00:00:00Z"), "subjects[0].valid_to"),
    (SUBJECT.format("valid_to: 1969-12-31T23:59:59Z"), "subjects[0].valid_to"),
    (SUBJECT.format("valid_to: 9999-01-01"), "subjects[0].valid_to"),
    (SUBJECT.format("valid_from: 2026-07-01, valid_to: 2026-01-01"), "subjects[0]"),
    (SUBJECT.format("valid_from: 2026-07-01, valid_to: 2026-07-01"), "subjects[0]"),
]


@pytest.mark.parametrize(("text", "path"), BAD, ids=[text[:50] for text, _ in BAD])
def test_what_is_wrong_is_told_by_its_path_and_never_repeated(text: str, path: str) -> None:
    with pytest.raises(InvalidMapping) as caught:
        read(text)
    faults = caught.value.faults
    assert path in [fault.path for fault in faults]
    assert 1 <= len(faults) <= 20
    assert SHOUT not in str(caught.value) + "".join(fault.message for fault in faults)


def test_many_faults_are_told_up_to_twenty() -> None:
    with pytest.raises(InvalidMapping) as caught:
        read(f"subjects: [{', '.join(['{subject: s, subscription: a}'] * 50)}]")
    assert len(caught.value.faults) == 20


def test_a_split_that_is_wrong_throughout_is_told_up_to_twenty_times() -> None:
    entries = ", ".join(f"{ENTRY}, groups: {{g{number}: a}}}}" for number in range(60))
    with pytest.raises(InvalidMapping) as caught:
        read(f"meters: [{entries}]")
    assert [fault.path for fault in caught.value.faults] == [
        f"meters[{number}].groups" for number in range(1, 21)
    ]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("meters: [{meter: m, price: p}, {meter: m, price: q}]", "give one a filter `groups`"),
        (SPLIT.format("{a: b}", "{c: d}"), "name one group in both, with different values"),
        (SPLIT.format("{a: b}", "{a: b}"), "these and those of meters[0]"),
        (METER.format("whole_period: true, record_per: day"), "leave record_per out"),
    ],
)
def test_a_refusal_of_the_mapping_says_what_to_do(text: str, advice: str) -> None:
    with pytest.raises(InvalidMapping) as caught:
        read(text)
    (fault,) = caught.value.faults
    assert advice in fault.message


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)
)


@pytest.mark.parametrize(
    "use", ["", "meters: *a39", "subjects: *a39", "meters: [{meter: m, price: *a39}]"]
)
def test_anchors_that_multiply_cost_nothing(use: str) -> None:
    """9^40 entries, were they ever walked: this test would not end."""
    with pytest.raises(InvalidMapping):
        read(LAUGHS + use)
