"""Hostile input at the webhook: never a 5xx, never an echo, and nothing stored unsigned."""

import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.inbox.deliveries import stored
from tests.routers.webhook_sender import (
    Headers,
    Receiver,
    encoded,
    receiving,
    report,
    signed,
)

MARKER = "Zq7Marker"
ROW = report()["usage"][0]


Change = Callable[[Headers], Headers]


@dataclass(frozen=True, slots=True)
class Case:
    """A body that is rightly signed, at the time of the test; then `change` is done to its headers.

    Without a change the body itself is what is refused.
    """

    body: bytes
    status: int
    change: Change = list
    chunked: bool = False

    def headers(self) -> Headers:
        return self.change(signed(self.body))


def refused(change: Change, body: bytes = MARKER.encode()) -> Case:
    return Case(body, 401, change)


def altered(name: bytes, value: bytes) -> Case:
    return refused(lambda good: [(key, value if key == name else old) for key, old in good])


def added(name: bytes, value: bytes) -> Change:
    return lambda good: [*good, (name, value)]


def other_family(good: Headers) -> Headers:
    return [(name.replace(b"svix", b"webhook"), value) for name, value in good]


def nothing(_: Headers) -> Headers:
    return []


def row(**members: object) -> Case:
    return Case(encoded(report(usage=[{**ROW, **members}])), 422)


def whole(**members: object) -> Case:
    return Case(encoded(report(**members)), 422)


def raw_value(text: str) -> Case:
    return Case(row(value="@").body.replace(b'"@"', text.encode()), 422)


M = MARKER.encode()
BIG = 1024 * 1024 + 1

CASES = {
    # Headers
    "no headers": refused(nothing),
    "only an id": refused(lambda good: good[:1]),
    "no signature": refused(lambda good: good[:2]),
    "empty headers": refused(lambda good: [(name, b"") for name, _ in good]),
    "another secret": refused(lambda _: signed(M, key=b"x" * 32)),
    "another body": refused(lambda _: signed(b"{}")),
    "another time": refused(lambda good: [good[0], (good[1][0], b"1772366400"), good[2]]),
    "id twice": refused(lambda good: [*good, good[0]]),
    "signature twice": refused(lambda good: [*good, good[2]]),
    "both families": refused(lambda good: [*good, *other_family(good)]),
    "mixed families": refused(lambda good: [*good[:2], *other_family(good)[2:]]),
    "webhook-* and a stray svix-id": refused(lambda good: [*other_family(good), good[0]]),
    "two spaces": refused(lambda good: [*good[:2], (good[2][0], b"  ".join([good[2][1]] * 2))]),
    "unknown version": refused(lambda good: [*good[:2], (good[2][0], b"v9" + good[2][1][2:])]),
    "a bad token beside": refused(lambda good: [*good[:2], (good[2][0], good[2][1] + b" " + M)]),
    "id swapped": altered(b"svix-id", M),
    "id with NUL": altered(b"svix-id", M + b"\0"),
    "id of a megabyte": altered(b"svix-id", M * 110_000),
    "id not ASCII": altered(b"svix-id", M + b"\xff\xfe"),
    "id that is SQL": altered(b"svix-id", b"'; drop table deliveries; --"),
    "id too long, signed": refused(lambda _: signed(M, MARKER * 30)),
    "id with a space, signed": refused(lambda _: signed(M, f"a {MARKER}")),
    "timestamp of text": altered(b"svix-timestamp", M),
    "timestamp nan": altered(b"svix-timestamp", b"nan"),
    "timestamp inf": altered(b"svix-timestamp", b"-inf"),
    "timestamp negative": altered(b"svix-timestamp", b"-1"),
    "timestamp beyond time": altered(b"svix-timestamp", b"9" * 11),
    "timestamp of 5,000 digits": altered(b"svix-timestamp", b"9" * 5000),
    "timestamp in Arabic digits": altered(b"svix-timestamp", "\u0661\u0667".encode()),
    "timestamp of 1970": altered(b"svix-timestamp", b"0"),
    "signature without comma": altered(b"svix-signature", M),
    "signature not base64": altered(b"svix-signature", b"v1," + M + b"*"),
    "signature of wrong padding": altered(b"svix-signature", b"v1,a"),
    "signature of commas": altered(b"svix-signature", b"," * 100),
    "signature of a megabyte": altered(b"svix-signature", b"v1," + b"A" * 1_000_000),
    "signature not ASCII": altered(b"svix-signature", b"v1,\xff\xfe"),
    # Bodies around the signature
    "unsigned nothing": refused(nothing, b""),
    "unsigned report": refused(nothing, encoded(report(report={"slug": MARKER}))),
    "signed but not UTF-8": Case(b"\xff" + M, 401),
    "too large": Case(b"x" * BIG, 413),
    "too large, unsigned": Case(b"x" * BIG, 413, nothing),
    "too large, in chunks": Case(b"x" * BIG, 413, chunked=True),
    "a length that lies": Case(M, 413, added(b"content-length", b"9" * 5000)),
    "gzip": Case(gzip.compress(M), 415, added(b"content-encoding", b"gzip")),
    "encoding of text": Case(M, 415, added(b"content-encoding", M)),
    # Signed, and not JSON
    "nothing": Case(b"", 422),
    "text": Case(M, 422),
    "cut off": Case(b'{"type":"report.meter","x":"' + M, 422),
    "NUL": Case(b"\0" + M, 422),
    "byte order mark": Case(b"\xef\xbb\xbf" + encoded(report()), 422),
    "nested to the depth": Case(b"[" * 1_000_000, 422),
    "objects to the depth": Case(b'{"a":' * 200_000, 422),
    "a member twice": Case(b'{"%s":1,"%s":2}' % (M, M), 422),
    "a list": Case(encoded([MARKER]), 422),
    "a number of 100,000 digits": Case(b"9" * 100_000, 422),
    "NaN alone": Case(b"NaN", 422),
    # Signed JSON, and no message
    "no type": Case(encoded({MARKER: 1}), 422),
    "type a number": Case(encoded({"type": 1, "x": MARKER}), 422),
    "type of text": Case(encoded({"type": MARKER}), 400),
    "type a lone surrogate": Case(encoded({"type": f"{MARKER}\ud800"}), 400),
    "type nearly right": Case(encoded(report(type="report.meter\n", x=MARKER)), 400),
    # Reports that are none
    "no usage": whole(usage=None),
    "usage of text": whole(usage=MARKER),
    "usage of nulls": whole(usage=[None] * 1000),
    "too many windows": whole(usage=[{}] * 10_001),
    "usage of 300,000 empties": Case(
        b'{"type":"report.meter","meter":{"slug":"m"},"usage":[' + b"{}," * 300_000 + b"{}]}", 422
    ),
    "slug of text": whole(meter={"slug": MARKER}),
    "slug with NUL": whole(meter={"slug": "m\0"}),
    "meter id with NUL": whole(meter={"slug": "m", "id": f"{MARKER}\0"}),
    "query of text": whole(query=MARKER),
    "value NaN": raw_value("NaN"),
    "value Infinity": raw_value("-Infinity"),
    "value 1e999": raw_value("1e999"),
    "value beyond decimals": raw_value("1e99999999999999999999"),
    "value of 5,000 digits": raw_value("9" * 5000),
    "value true": raw_value("true"),
    "value of text": row(value=MARKER),
    "value in Arabic digits": row(value="\u0661"),
    "subject with NUL": row(subject=f"{MARKER}\0"),
    "subject a lone surrogate": row(subject=f"{MARKER}\udc00"),
    "subject too long": row(subject=MARKER * 100),
    "group a list": row(groupBy=[MARKER]),
    "group key with NUL": row(groupBy={f"{MARKER}\0": ""}),
    "group key a lone surrogate": row(groupBy={f"{MARKER}\ud800": ""}),
    "group of groups": row(groupBy={MARKER: {MARKER: MARKER}}),
    "time of text": row(windowStart=MARKER),
    "time without offset": row(windowStart="2023-01-01T00:00:00"),
    "time before time": row(windowStart="0001-01-01T00:00:00+23:59"),
    "time after time": row(windowEnd="9999-12-31T23:59:59-23:59"),
    "window of nothing": row(windowEnd=ROW["windowStart"]),
    "two values": Case(encoded(report(usage=[ROW, {**ROW, "value": 1}])), 422),
}


@pytest.fixture
async def receiver(engine: AsyncEngine) -> AsyncIterator[Receiver]:
    async with receiving(engine) as receiver:
        yield receiver


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_hostile(case: Case, receiver: Receiver, engine: AsyncEngine) -> None:
    answer = await receiver.client.post(
        "/webhooks/openmeter",
        content=in_chunks(case.body) if case.chunked else case.body,
        headers=case.headers(),
    )
    assert answer.status_code == case.status
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 4096
    assert MARKER not in answer.text
    assert MARKER not in repr(answer.headers.raw)
    assert set(answer.json()) <= {"type", "title", "status", "detail", "faults"}
    kept = await stored(engine)
    assert [row.state for row in kept] == (["rejected"] if case.status == 422 else [])
    assert MARKER not in repr([row.faults for row in kept])
    # It harms nobody else.
    good = encoded(report())
    assert (await receiver.send(good, signed(good, "msg_good"))).status_code == 202


async def test_every_refusal_of_a_signature_reads_the_same(receiver: Receiver) -> None:
    answers = set()
    for case in CASES.values():
        if case.status == 401:
            answer = await receiver.send(case.body, case.headers())
            answers.add((answer.status_code, answer.content, tuple(answer.headers.raw)))
    assert len(answers) == 1


JUNK_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"svix-id", b"svix-timestamp", b"svix-signature", b"webhook-id", b"content-encoding"]
        ),
        st.binary(max_size=40),
    ),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=300), headers=JUNK_HEADERS)
async def test_any_request_gets_a_refusal(
    receiver: Receiver, body: bytes, headers: Headers
) -> None:
    answer = await receiver.client.post("/webhooks/openmeter", content=body, headers=headers)
    assert answer.status_code in {401, 415}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
async def test_any_signed_text_gets_an_answer(receiver: Receiver, body: bytes) -> None:
    answer = await receiver.send(body, signed(body, f"msg_{body.hex()[:200]}"))
    assert answer.status_code in {400, 409, 422}
