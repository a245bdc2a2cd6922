"""The doctor on real settings and a real database, and as a command."""

import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands.demo_http import LocalApi
from app.commands.doctor import examine, settings_findings
from app.commands.doctor_findings import Finding, Level, as_json, print_finding, print_outcome
from app.commands.doctor_ledger import line_finding, summary_findings
from app.config import Settings
from app.dispatch.line import stop_line
from app.dispatch.reasons import HoldReason, StopReason
from app.errors import SettingsError
from app.ledger.status import LineRow, Summary
from app.mapping.file import from_yaml, to_mappings
from app.mapping.reasons import ParkReason
from app.mapping.repository import MappingRepository
from tests.commands.program import SECRET, TOKEN, Program
from tests.mapping.seen_side import keep, series
from tests.mapping.stripe_side import item, snapshot

PASSWORD = "pa55word-of-nobody"
NOW = datetime(2026, 3, 15, tzinfo=UTC)


def plain(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def settings(database_url: str) -> Settings:
    return Settings(
        _env_file=None,
        database_url=SecretStr(database_url),
        openmeter_webhook_secrets=(SecretStr(SECRET),),
        admin_tokens=(SecretStr(TOKEN),),
    )


async def found(chosen: Settings) -> list[Finding]:
    told: list[Finding] = []
    await examine(lambda: chosen, told.append)
    return told


def by_check(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


async def test_a_database_in_order(fresh_url: URL) -> None:
    seen = by_check(await found(settings(plain(fresh_url))))
    assert seen["database"].detail == "written and read"
    for check in ("settings", "webhook_secrets", "admin_tokens", "schema", "line", "held"):
        assert seen[check].level is Level.OK, check
    assert seen["mappings"].level is Level.WARNING
    assert "mappings apply" in seen["mappings"].action
    assert seen["stripe_key"].level is Level.PROBLEM
    assert "STRIPE_API_KEY" in seen["stripe_key"].action


async def test_settings_that_do_not_load() -> None:
    told: list[Finding] = []

    def refuse() -> Settings:
        raise SettingsError("STRIPE_RATE_LIMIT: must be above 0")

    assert await examine(refuse, told.append) == 0
    assert [(f.check, f.level) for f in told] == [("settings", Level.PROBLEM)]
    assert "STRIPE_RATE_LIMIT" in told[0].detail


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({}, Level.WARNING, "is not set"),
        ({"DATABASE_URL": ""}, Level.PROBLEM, "is empty"),
        ({"DATABASE_URL": f"postgresql://me:{PASSWORD}@h/d"}, Level.OK, "set"),
    ],
)
def test_which_database_is_used(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: dict[str, str],
    level: Level,
    words: str,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    chosen = Settings(_env_file=None, meterbridge_data_dir=tmp_path / "data")
    told = by_check(settings_findings(chosen))["database_url"]
    assert told.level is level
    assert words in told.detail
    assert (level is Level.OK) or str(tmp_path / "data") in told.detail
    assert PASSWORD not in repr(told)


@pytest.mark.parametrize(
    ("given", "pace", "retention"),
    [
        ({}, "20 usage records a second", "400 days after its billing period"),
        ({}, "rises to 25", "attempts 100 days"),
        ({"retention_days": 0, "stripe_rate_ceiling": 10}, "10 usage", "kept for ever after"),
        ({"raw_retention_days": 0, "stripe_rate_limit": 30}, "30 usage", "attempts for ever"),
    ],
)
def test_pace_and_retention_are_told(given: dict[str, int], pace: str, retention: str) -> None:
    seen = by_check(settings_findings(Settings(_env_file=None, **given)))  # type: ignore[arg-type]
    assert pace in seen["stripe_pace"].detail
    assert retention in seen["retention"].detail
    assert ("rises" in seen["stripe_pace"].detail) == (given == {})


def test_settings_that_are_not_set() -> None:
    seen = by_check(settings_findings(Settings.model_construct()))
    assert seen["webhook_secrets"].level is Level.PROBLEM
    assert seen["admin_tokens"].level is Level.WARNING
    assert seen["stripe_key"].level is Level.PROBLEM
    for check in ("webhook_secrets", "admin_tokens", "stripe_key"):
        assert seen[check].action


@pytest.mark.parametrize(
    "broken",
    [
        f"postgresql://me:{PASSWORD}@127.0.0.1:1/x",
        f"postgresql://me:{PASSWORD}@no-such-host.invalid/x",
    ],
)
async def test_an_address_that_nobody_answers_at(broken: str) -> None:
    seen = by_check(await found(settings(broken)))
    assert seen["database"].level is Level.PROBLEM
    assert "DATABASE_URL" in seen["database"].action
    assert "mappings" not in seen
    assert PASSWORD not in repr(seen)


@pytest.mark.parametrize(
    "broken",
    [
        f"postgresql://me:{PASSWORD}@127.0.0.1:{PASSWORD}/x",
        f"postgresql://me:{PASSWORD}@127.0.0.1/x?{PASSWORD}=1",
        f"postgresql://me:{PASSWORD}@127.0.0.1/x?pgbouncer=true",
    ],
)
async def test_an_address_that_is_none_is_told_before_stripe_is_asked(broken: str) -> None:
    told: list[Finding] = []
    assert await examine(lambda: settings(broken), told.append) == 0
    [only] = told
    assert (only.check, only.level) == ("settings", Level.PROBLEM)
    assert only.detail.startswith("DATABASE_URL: ")
    assert PASSWORD not in repr(only)


async def test_a_database_that_is_not_there(server_url: URL) -> None:
    seen = by_check(await found(settings(plain(server_url.set(database="mb_nowhere")))))
    assert seen["database"].level is Level.PROBLEM
    assert 'database "mb_nowhere" does not exist' in seen["database"].detail


async def test_looking_makes_no_database(place: Path) -> None:
    folder = place / "data"
    seen = by_check(await found(Settings(_env_file=None, meterbridge_data_dir=folder)))
    assert seen["database"].level is Level.PROBLEM
    assert str(folder) in seen["database"].detail
    assert "meterbridge serve" in seen["database"].action
    assert "mappings" not in seen
    assert not folder.exists()


async def test_a_schema_that_is_behind(fresh_url: URL, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("delete from alembic_version"))
    seen = by_check(await found(settings(plain(fresh_url))))
    assert seen["schema"].level is Level.PROBLEM
    assert "meterbridge migrate" in seen["schema"].action
    assert "line" not in seen


async def test_a_line_that_is_stopped(fresh_url: URL, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await stop_line(connection, StopReason.KEY_REFUSED, "HTTP 401", now=NOW)
    seen = by_check(await found(settings(plain(fresh_url))))
    assert seen["line"].level is Level.PROBLEM
    for words in ("key_refused", "HTTP 401", "2026-03-15 00:00 UTC"):
        assert words in seen["line"].detail
    assert "STRIPE_API_KEY" in seen["line"].action


async def test_a_whole_period_that_nobody_can_ask_for(fresh_url: URL, engine: AsyncEngine) -> None:
    file = "meters: [{meter: users, price: p, groups: {plan: pro}, whole_period: true}]"
    await MappingRepository(engine).replace(to_mappings(from_yaml(file)), now=NOW)
    chosen = settings(plain(fresh_url))
    told = by_check(await found(chosen))["mappings"]
    assert told.level is Level.WARNING
    assert told.detail.startswith("users (plan=pro): whole_period needs OPENMETER_API_URL")
    asked = chosen.model_copy(update={"openmeter_api_url": "http://127.0.0.1:9"})
    assert "whole_period" not in repr(await found(asked))


async def test_a_meter_that_does_not_fit_its_price(fresh_url: URL, engine: AsyncEngine) -> None:
    file = """
    meters: [{meter: tokens, price: price_1}, {meter: calls, price: price_2}]
    subjects: [{subject: customer-1, subscription: sub_1}]
    """
    await MappingRepository(engine).replace(to_mappings(from_yaml(file)), now=NOW)
    await series(engine, "SUM")
    await keep(engine, snapshot(item(aggregate_usage="max")))
    told = [
        finding
        for finding in await found(settings(plain(fresh_url)))
        if "price_1" in finding.detail
    ]
    assert [(finding.check, finding.level) for finding in told] == [("mappings", Level.WARNING)]
    assert "aggregate_usage max, the meter aggregates by SUM" in told[0].detail
    assert "price" in told[0].action


async def test_a_record_that_is_unsent_for_long(fresh_url: URL, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                """
                with period as (
                    insert into item_periods (subscription, subscription_item, period_start,
                        period_end, rounding, exact_numerator, exact_denominator,
                        rounded_total)
                    values ('sub_1', 'si_1', :now, :now, 'half_up', 1, 1, 1) returning id)
                insert into usage_records (item_period_id, subscription, subscription_item,
                    timestamp, wanted_quantity, svix_id, state, due_at, unsent_since)
                select id, 'sub_1', 'si_1', 1, 1, 'msg_1', 'due', :now, :now from period
                """
            ),
            {"now": NOW},
        )
    seen = by_check(await found(settings(plain(fresh_url))))
    assert seen["oldest_unsent"].level is Level.PROBLEM
    assert "worker" in seen["oldest_unsent"].action


@pytest.mark.parametrize("reason", list(ParkReason))
def test_every_parked_reason_has_its_action(reason: ParkReason) -> None:
    summary = Summary({}, {}, {reason.value: 3}, {}, {}, None)
    parked = by_check(summary_findings(summary))["parked"]
    expected = Level.OK if reason is ParkReason.PERIOD_NOT_OPEN else Level.WARNING
    assert parked.level is expected
    assert f"3 usage windows: {reason.value}" in parked.detail
    assert parked.action


@pytest.mark.parametrize("reason", list(HoldReason))
def test_every_held_reason_is_a_problem(reason: HoldReason) -> None:
    held = by_check(summary_findings(Summary({}, {}, {}, {}, {reason.value: 2}, None)))["held"]
    assert held.level is Level.PROBLEM
    assert f"2 usage records: {reason.value}" in held.detail
    assert held.action


@pytest.mark.parametrize("reason", list(StopReason))
def test_every_stop_has_its_action(reason: StopReason) -> None:
    finding = line_finding(LineRow(True, reason.value, None, None))
    assert finding.level is Level.PROBLEM
    assert finding.action


@pytest.mark.parametrize(
    ("state", "level"), [("failed", Level.PROBLEM), ("rejected", Level.WARNING)]
)
def test_deliveries_that_wait_for_somebody(state: str, level: Level) -> None:
    [finding] = [
        f for f in summary_findings(Summary({state: 4}, {}, {}, {}, {}, None)) if "4" in f.detail
    ]
    assert finding.level is level
    assert finding.action


def test_it_prints_within_eighty_columns() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80)
    findings = [
        Finding("webhook_secrets", Level.OK, "2, decodable"),
        Finding("subscription", Level.PROBLEM, "no [item] of " + "x" * 100, "Add the price."),
        Finding("admin_tokens", Level.WARNING, "none", "Set ADMIN_TOKENS."),
    ]
    for finding in findings:
        print_finding(console, finding)
    print_outcome(console, findings, 1)
    said = output.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    assert "[item]" in said
    assert "-> Add the price." in said
    assert said.endswith("1 problem, 1 warning. 1 read made at Stripe, where reads are rationed.\n")
    assert json.loads(as_json(findings, 1))["ok"] is False
    assert json.loads(as_json(findings[:1], 0))["ok"] is True


def test_the_command(program: Program, control: LocalApi, tmp_path: Path) -> None:
    control.call("POST", "/_sandbox/customers", {"id": "cus_1"})
    control.call("POST", "/_sandbox/prices", {"id": "price_1"})
    draft = {"id": "sub_1", "customer": "cus_1", "items": [{"price": "price_1"}]}
    control.call("POST", "/_sandbox/subscriptions", draft)
    file = tmp_path / "mappings.yaml"
    file.write_text(
        "meters: [{meter: calls, price: price_1}]\n"
        "subjects: [{subject: customer-1, subscription: sub_1}]\n"
    )
    base = {"STRIPE_API_BASE": control.url}
    assert program.run("mappings", "apply", str(file), **base).returncode == 0

    done = program.run("doctor", "--json", **base)
    report = json.loads(done.stdout)
    assert report["ok"] is True, report
    assert done.returncode == 0
    assert report["stripe_reads"] == 2
    assert {check["level"] for check in report["checks"]} == {"ok"}
    assert {check["check"] for check in report["checks"]} >= {
        "settings",
        "webhook_secrets",
        "admin_tokens",
        "database",
        "schema",
        "stripe_key",
        "stripe_version",
        "stripe_account",
        "subscription",
        "line",
        "parked",
        "held",
        "oldest_unbooked",
        "oldest_unsent",
    }

    wrong = {"STRIPE_API_KEY": f"sk_test_{PASSWORD}", "LOG_LEVEL": "debug"}
    refused = program.run("doctor", **base, **wrong)
    assert refused.returncode == 1
    assert re.search(r"^problem +stripe_key +key_refused", refused.stdout, re.MULTILINE)
    assert "1 problem, 0 warnings" in refused.stdout
    for secret in (PASSWORD, SECRET, TOKEN):
        assert secret not in refused.stdout + refused.stderr + done.stdout + done.stderr
