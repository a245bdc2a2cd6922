"""`mappings discover`: the real command between the Stripe sandbox, OpenMeter's stand-in and a
real database."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands.demo_http import LocalApi
from app.commands.discovery import Wish, run
from app.commands.discovery_output import mapping_file
from app.config import Settings
from app.errors import MeterbridgeError
from app.mapping.discovery import Discovery, Proposal
from app.mapping.evidence import Asked, Source
from app.mapping.file import Mappings, from_yaml, to_mappings
from app.mapping.models import SubjectMapping
from app.mapping.repository import MappingRepository
from app.mapping.unmapped import unmapped_subjects
from tests.commands.program import Program
from tests.openmeter_side.answers import problem
from tests.openmeter_side.serving import serving
from tests.openmeter_side.side import OpenMeterSide

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
KEY = "om_secret_of_nobody"
METERS = "meters: [{meter: calls, price: price_calls}]\n"


@pytest.fixture
def account(control: LocalApi) -> LocalApi:
    """Customers `cus_1` to `cus_3` and a price that is mapped, one that is not."""
    for number in (1, 2, 3):
        control.call("POST", "/_sandbox/customers", {"id": f"cus_{number}"})
    for price in ("price_calls", "price_other"):
        control.call("POST", "/_sandbox/prices", {"id": price})
    return control


class Discover:
    """Runs the command: as a process, or (which saves seconds) without its command line."""

    def __init__(self, program: Program, account: LocalApi) -> None:
        self._program = program
        self.settings = {**program.settings, "STRIPE_API_BASE": account.url}

    def typed(self, *arguments: str, code: int = 0) -> str:
        """What it prints: to the standard output, or where it ends with 2, to the other one."""
        done = self._program.run("mappings", "discover", *arguments, **self.settings)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert KEY not in done.stdout + done.stderr
        return done.stderr if code == 2 else done.stdout

    async def run(self, asked: Asked = Asked.ALL, *, applying: bool = False, code: int = 0) -> Any:
        """What it tells with --json."""
        output = io.StringIO()
        wish = Wish(asked, applying=applying, json=True, file=None, most=100)
        given: dict[str, Any] = {name.lower(): value for name, value in self.settings.items()}
        chosen = Settings(_env_file=None, **given)
        assert await run(chosen, wish, console=Console(file=output)) == code
        assert KEY not in output.getvalue()
        return json.loads(output.getvalue())


@pytest.fixture
async def discover(program: Program, account: LocalApi, engine: AsyncEngine) -> Discover:
    """The command on a database that has a meter mapping."""
    await MappingRepository(engine).replace(to_mappings(from_yaml(METERS)), now=NOW)
    return Discover(program, account)


def subscribe(control: LocalApi, name: str, customer: str, price: str, **more: object) -> None:
    draft = {"id": name, "customer": customer, "items": [{"price": price}], **more}
    control.call("POST", "/_sandbox/subscriptions", draft)


def named(subjects: str) -> dict[str, object]:
    return {"metadata": {"openmeter_subject": subjects}}


async def used(engine: AsyncEngine, *subjects: str) -> None:
    """They have used something, and nobody knows who pays."""
    async with engine.begin() as connection:
        for subject in subjects:
            await connection.execute(
                text(
                    "insert into usage_series (meter, subject, group_key, group_by, aggregation, "
                    "newest_start, newest_end) values ('calls', :subject, '', '{}', 'SUM', "
                    ":now, :now)"
                ),
                {"subject": subject, "now": NOW},
            )


@pytest.fixture
def side() -> OpenMeterSide:
    return OpenMeterSide(api_key=KEY)


@pytest.fixture
def openmeter(side: OpenMeterSide, discover: Discover) -> Iterator[OpenMeterSide]:
    """The stand-in on a real port, known to the command."""
    with serving(side) as url:
        discover.settings |= {"OPENMETER_API_URL": url, "OPENMETER_API_KEY": KEY}
        yield side


async def test_from_metadata_to_mappings(
    discover: Discover, account: LocalApi, engine: AsyncEngine, tmp_path: Path
) -> None:
    subscribe(account, "sub_1", "cus_1", "price_calls", **named("acme, acme-eu"))
    subscribe(account, "sub_2", "cus_2", "price_calls")
    subscribe(account, "sub_3", "cus_2", "price_other")
    account.call("POST", "/_sandbox/customers", {"id": "cus_4", **named("globex")})
    subscribe(account, "sub_4", "cus_4", "price_calls")
    subscribe(account, "sub_5", "cus_4", "price_other")
    repository = MappingRepository(engine)

    said = discover.typed()
    for words in ("acme-eu", "sub_4", "metadata of cus_4: sub_4", "3 proposed, 0 in doubt"):
        assert words in said
    assert "OPENMETER_API_URL is not set" in said
    shown = to_mappings(from_yaml(said[said.index("# Proposed") : said.index("OPENMETER_API_URL")]))
    assert (await repository.everything()).subjects == {}

    file = tmp_path / "proposed.yaml"
    said = discover.typed("--apply", "--file", str(file))
    assert "3 mappings applied." in said
    assert "subjects:" not in said
    mapped = (await repository.everything()).subjects
    assert mapped == {
        subject: (SubjectMapping(subject, subscription),)
        for subject, subscription in (("acme", "sub_1"), ("acme-eu", "sub_1"), ("globex", "sub_4"))
    }
    assert mapped == shown.subjects == to_mappings(from_yaml(file.read_text("utf-8"))).subjects
    again = await discover.run(applying=True)
    assert (again["proposals"], again["already_mapped"], again["applied"]) == ([], 3, 0)


async def test_what_is_in_doubt_is_told_and_the_rest_is_applied(
    discover: Discover, account: LocalApi, engine: AsyncEngine
) -> None:
    subscribe(account, "sub_1", "cus_1", "price_calls", **named("acme"))
    subscribe(account, "sub_2", "cus_2", "price_calls", **named("acme [/red] globex"))
    subscribe(account, "sub_3", "cus_3", "price_calls", **named("initech"))
    standing = (
        SubjectMapping("initech", "sub_old", None, NOW),
        SubjectMapping("initech", "sub_older", NOW),
    )
    repository = MappingRepository(engine)
    await repository.replace(Mappings({}, {"initech": standing}), now=NOW)
    seen = await discover.run(applying=True, code=1)
    assert [one["subject"] for one in seen["proposals"]] == ["[/red]", "globex"]
    assert [(one["subject"], one["reason"]) for one in seen["ambiguous"]] == [
        ("acme", "named_twice"),
        ("initech", "mapped_otherwise"),
    ]
    assert seen["ambiguous"][0]["candidates"] == ["sub_1", "sub_2"]
    assert all(one["action"] for one in seen["ambiguous"])
    mapped = (await repository.everything()).subjects
    assert mapped["initech"] == standing
    assert set(mapped) == {"initech", "globex", "[/red]"}


async def test_openmeters_customers(
    discover: Discover, account: LocalApi, openmeter: OpenMeterSide, engine: AsyncEngine
) -> None:
    subscribe(account, "sub_1", "cus_1", "price_calls")
    subscribe(account, "sub_2", "cus_1", "price_other")
    subscribe(account, "sub_3", "cus_2", "price_calls")
    openmeter.customer("01A", subjects=["acme"], stripe="cus_1")
    openmeter.customer("01B", subjects=["ACME", "acme-eu", "not-acme"], stripe="cus_2")
    openmeter.customer("01C", key="by-key", stripe="cus_2")
    openmeter.customer("01D", subjects=["unlinked"])
    openmeter.customer("01E", subjects=["gone"], stripe="cus_gone")
    openmeter.customer("01F", subjects=["shared"], stripe="cus_1")
    openmeter.customer("01G", subjects=["shared"], stripe="cus_2")
    await used(engine, "acme", "by-key", "unlinked", "gone", "shared", "nobody's")
    for asked in (Asked.OPENMETER, Asked.ALL):
        seen = await discover.run(asked, code=1)
        assert [
            (one["subject"], one["subscription"], one["source"]) for one in seen["proposals"]
        ] == [("acme", "sub_1", "openmeter"), ("by-key", "sub_3", "openmeter")]
        assert [(one["subject"], one["reason"]) for one in seen["ambiguous"]] == [
            ("shared", "several_customers")
        ]
        assert [one["subject"] for one in seen["unresolved"]] == ["gone", "nobody's", "unlinked"]
        assert seen["notes"] == []
    asked_for = {path for path, _ in openmeter.requests}
    assert "/api/v1/customers/01B/stripe" not in asked_for  # it only resembles
    said = discover.typed("--source", "openmeter", code=1)
    assert "2 proposed, 1 in doubt, 3 without a subscription" in said


async def test_a_customer_that_stripe_does_not_know(
    discover: Discover, account: LocalApi, openmeter: OpenMeterSide, engine: AsyncEngine
) -> None:
    openmeter.customer("01A", subjects=["acme"], stripe="cus_of_another_account")
    openmeter.customer("01B", subjects=["globex"], stripe="cus/../1")
    await used(engine, "acme", "globex")
    seen = await discover.run(Asked.OPENMETER)
    assert [one["reason"] for one in seen["unresolved"]] == ["refused", "refused"]
    assert "knows no customer cus_of_another_account" in seen["unresolved"][0]["why"]


async def test_sources_that_contradict_each_other(
    discover: Discover, account: LocalApi, openmeter: OpenMeterSide, engine: AsyncEngine
) -> None:
    subscribe(account, "sub_1", "cus_1", "price_calls", **named("acme globex"))
    subscribe(account, "sub_2", "cus_2", "price_calls")
    openmeter.customer("01A", subjects=["acme"], stripe="cus_2")
    openmeter.customer("01B", subjects=["globex"], stripe="cus_1")
    await used(engine, "acme", "globex")
    both = await discover.run(code=1)
    assert [(one["subject"], one["reason"]) for one in both["ambiguous"]] == [
        ("acme", "sources_disagree")
    ]
    assert [(one["subject"], one["source"]) for one in both["proposals"]] == [
        ("globex", "stripe and openmeter")
    ]
    openmeter.requests.clear()
    stripe = await discover.run(Asked.STRIPE)
    assert {one["subject"]: one["subscription"] for one in stripe["proposals"]} == {
        "acme": "sub_1",
        "globex": "sub_1",
    }
    assert openmeter.requests == []
    alone = await discover.run(Asked.OPENMETER)
    assert {one["subject"]: one["subscription"] for one in alone["proposals"]} == {
        "acme": "sub_2",
        "globex": "sub_1",
    }


async def test_one_subject_that_openmeter_refuses_does_not_stop_the_others(
    discover: Discover, account: LocalApi, openmeter: OpenMeterSide, engine: AsyncEngine
) -> None:
    subscribe(account, "sub_1", "cus_1", "price_calls")
    openmeter.customer("01A", subjects=["odd"], stripe="cus_1")
    openmeter.customer("01B", subjects=["sound"], stripe="cus_1")
    openmeter.fail(problem(400, "Bad Request", "no such filter"), path="/01A/")
    await used(engine, "odd", "sound")
    seen = await discover.run(Asked.OPENMETER)
    assert [one["subject"] for one in seen["proposals"]] == ["sound"]
    assert [(one["subject"], one["reason"]) for one in seen["unresolved"]] == [("odd", "refused")]


async def test_a_side_that_cannot_be_read_ends_it_before_anything_is_changed(
    discover: Discover, account: LocalApi, openmeter: OpenMeterSide, engine: AsyncEngine
) -> None:
    subscribe(account, "sub_1", "cus_1", "price_calls", **named("acme"))
    await used(engine, "globex")
    openmeter.fail(problem(401, "Unauthorized", "invalid token"))
    said = discover.typed("--apply", code=2)
    assert "OpenMeter cannot be read: OpenMeter answered HTTP 401" in said
    discover.settings["STRIPE_API_KEY"] = "sk_test_of_nobody"
    with pytest.raises(MeterbridgeError, match="Stripe cannot be read: key_refused") as refused:
        await discover.run(Asked.STRIPE, applying=True)
    assert "sk_test_of_nobody" not in str(refused.value)
    assert (await MappingRepository(engine).everything()).subjects == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "openmeter"], "OPENMETER_API_URL: is not set"),
        (["--file", "mine.yaml"], "mine.yaml exists already"),
        (["--file", "no/such/folder.yaml"], "cannot write no/such/folder.yaml"),
        (["--limit", "1"], "raise --limit"),
    ],
)
async def test_requests_that_cannot_be_done(
    discover: Discover, account: LocalApi, tmp_path: Path, arguments: list[str], says: str
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(METERS)
    subscribe(account, "sub_1", "cus_1", "price_calls")
    subscribe(account, "sub_2", "cus_1", "price_calls")
    assert says in discover.typed(*arguments, code=2)
    assert mine.read_text() == METERS


async def test_more_subjects_than_the_limit(
    discover: Discover, openmeter: OpenMeterSide, engine: AsyncEngine
) -> None:
    await used(engine, *(f"subject-{number}" for number in range(101)))
    with pytest.raises(MeterbridgeError, match="Over 100 subjects"):
        await discover.run(Asked.OPENMETER)
    assert openmeter.requests == []


async def test_without_meter_mappings_nothing_but_the_named_is_proposed(
    program: Program, account: LocalApi
) -> None:
    subscribe(account, "sub_1", "cus_1", "price_calls", **named("acme"))
    account.call("POST", "/_sandbox/customers", {"id": "cus_4", **named("globex")})
    subscribe(account, "sub_4", "cus_4", "price_calls")
    seen = await Discover(program, account).run(Asked.STRIPE)
    assert [one["subject"] for one in seen["proposals"]] == ["acme"]
    assert [one["subject"] for one in seen["unresolved"]] == ["globex"]
    assert "map the meters first" in seen["notes"][0]


async def test_the_subjects_that_need_a_mapping(engine: AsyncEngine) -> None:
    await used(engine, "b", "a", "mapped")
    spans: dict[str, tuple[SubjectMapping, ...]] = {
        name: (SubjectMapping(name, "sub_1"),) for name in ("mapped", "past")
    }
    await MappingRepository(engine).replace(Mappings({}, spans), now=NOW)
    async with engine.begin() as connection:
        delivery = await connection.scalar(
            text(
                "insert into deliveries (svix_id, body, body_sha256, message_at, received_at, "
                "state) values ('msg_1', '', '', :now, :now, 'booked') returning id"
            ),
            {"now": NOW},
        )
        for subject, reason in (
            ("past", "no_subject_mapping"),
            ("a", "no_subject_mapping"),
            ("other", "no_meter_mapping"),
        ):
            await connection.execute(
                text(
                    "insert into usage_windows (meter, subject, group_key, window_start, "
                    "window_end, group_by, aggregation, value, subject_contradicts, delivery_id, "
                    "svix_id, message_at, state, reason) values ('calls', :subject, '', :now, "
                    "cast(:now as timestamptz) + interval '1 hour', '{}', 'SUM', 1, "
                    "false, :delivery, 'msg_1', :now, 'parked', :reason)"
                ),
                {"subject": subject, "reason": reason, "now": NOW, "delivery": delivery},
            )
    assert await unmapped_subjects(engine, most=10) == ["a", "b", "past"]
    assert await unmapped_subjects(engine, most=2) == ["a", "b"]


@settings(deadline=None)
@example({"a\x85b": "sub_1", "a\u2028b": "sub_1", "a\u2029": "sub_1", "\ufeffa": "sub_1"})
@example({"0123": "sub_1", "true": "sub_1", "~": "sub_1", "- a": "sub_1", "a: b #c": "sub_1"})
@given(
    st.dictionaries(
        st.from_regex(r"\A[^\x00-\x1f\ud800-\udfff]{1,40}\Z"), st.sampled_from(["sub_1", "sub_2"])
    )
)
def test_the_file_is_what_apply_takes(wanted: dict[str, str]) -> None:
    found = Discovery(
        tuple(Proposal(name, sub, Source.STRIPE, "why") for name, sub in wanted.items())
    )
    read = to_mappings(from_yaml(mapping_file(found.proposals)))
    assert read.subjects == {name: (SubjectMapping(name, sub),) for name, sub in wanted.items()}
    assert read.meters == {}
