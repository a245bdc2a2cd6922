"""Health by doing: what each check says when what it looks at is broken."""

import asyncio
import base64
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.engine import URL

from app.bootstrap import Services, services
from app.config import Settings
from app.db import ProgramSchema, create_engine, transaction
from tests.api.conftest import SECRET
from tests.routers.webhook_sender import PATH, encoded, report, signed

UNBOOKED = """
    insert into deliveries (svix_id, body, body_sha256, message_at, received_at, state)
    values ('{state}', '', '', now(), now() - interval '{minutes} minutes', '{state}')
"""

PARKED = """
    insert into usage_windows (meter, subject, group_key, group_by, window_start, window_end,
        aggregation, value, svix_id, message_at, state, reason)
    values ('m', 's', '', '{{}}', now(), now() + interval '1 hour', 'SUM', 1, 'msg', now(),
        'parked', '{reason}')
"""

WAITING = """
    select exists (
        select 1 from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and not l.granted)
"""


async def test_all_is_well(anonymous: httpx.AsyncClient) -> None:
    for path in ("/readyz", "/readyz/receive"):
        answer = await anonymous.get(path)
        assert (answer.status_code, answer.json()["failing"]) == (200, [])


async def test_readiness_has_written(anonymous: httpx.AsyncClient, built: Services) -> None:
    await anonymous.get("/readyz")
    async with transaction(built.engine) as connection:
        names = (await connection.execute(text("select name from replicas"))).scalars().all()
    assert list(names) == [built.replica]


async def test_two_processes_of_one_host_and_number_are_two(
    built: Services, settings: Settings, fresh_url: URL
) -> None:
    """As the containers of one pod are: one that stops ends the leases of its own name."""
    async with services(settings, fresh_url) as other:
        assert other.replica != built.replica
        assert other.replica.rpartition(":")[0] == built.replica.rpartition(":")[0]


@pytest.mark.parametrize(
    ("sql", "check", "receiving"),
    [
        (
            "update stripe_line set stopped = true, reason = 'key_refused', since = now()",
            "line",
            200,
        ),
        ("drop table alembic_version", "schema", 503),
        ("delete from alembic_version", "schema", 503),
        (
            UNBOOKED.format(state="received", minutes=16),
            "oldest_unbooked",
            200,
        ),
        (UNBOOKED.format(state="failed", minutes=0), "failed", 200),
        (PARKED.format(reason="booking_failed"), "failed", 200),
        ("drop table replicas", "database", 503),
    ],
)
async def test_a_failing_check_is_named(
    anonymous: httpx.AsyncClient, built: Services, sql: str, check: str, receiving: int
) -> None:
    async with transaction(built.engine) as connection:
        await connection.execute(text(sql))
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (503, [check])
    assert (await anonymous.get("/readyz/receive")).status_code == receiving
    assert (await anonymous.get("/healthz")).status_code == 200


async def test_what_is_parked_for_a_mapping_is_in_order(
    anonymous: httpx.AsyncClient, built: Services
) -> None:
    async with transaction(built.engine) as connection:
        await connection.execute(text(PARKED.format(reason="no_meter_mapping")))
    assert (await anonymous.get("/readyz")).json()["failing"] == []


async def test_however_many_ask_they_share_one_look_and_none_waits_for_it_to_end(
    anonymous: httpx.AsyncClient, built: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.routers.health.CHECK_TIMEOUT", 0.2)
    locking = create_engine(built.engine.url, pool_size=1)
    async with transaction(locking) as lock:
        await lock.execute(text("lock table replicas in access exclusive mode"))
        # More than there are sessions in the pool.
        answers = await asyncio.gather(*(anonymous.get("/readyz/receive") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {503}
        waiting = "select count(*) from pg_locks where relation = 'replicas'::regclass"
        assert await lock.scalar(text(f"{waiting} and not granted")) == 1
        async with transaction(built.engine) as connection:  # the pool is free
            assert await connection.scalar(text("select 1")) == 1
    async with asyncio.timeout(20):
        while (await anonymous.get("/readyz/receive")).status_code != 200:
            await asyncio.sleep(0.05)
    await locking.dispose()


async def test_webhooks_are_received_while_a_migration_locks_the_ledger(
    anonymous: httpx.AsyncClient, built: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.routers.health.CHECK_TIMEOUT", 60)  # the server's bound comes first
    body = encoded(report())
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    migrating = create_engine(built.engine.url, pool_size=1)
    async with transaction(migrating) as migration:
        await migration.execute(
            text(
                "lock table usage_series, usage_windows, item_periods, usage_records, "
                "window_revisions, subscription_lanes, stripe_line in access exclusive mode"
            )
        )
        whole = asyncio.create_task(anonymous.get("/readyz"))
        while not await migration.scalar(text(WAITING)):
            assert not whole.done()
        answer = await anonymous.get("/readyz/receive")
        assert (answer.status_code, answer.json()["failing"]) == (200, [])
        accepted = await anonymous.post(PATH, content=body, headers=signed(body, key=key))
        assert accepted.status_code == 202
        assert not whole.done()
    await whole
    await migrating.dispose()


async def test_a_newer_schema_is_in_order(anonymous: httpx.AsyncClient, built: Services) -> None:
    async with transaction(built.engine) as connection:
        await connection.execute(text("update alembic_version set version_num = 'later'"))
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (200, [])
    details = {check["name"]: check["detail"] for check in answer.json()["checks"]}
    assert details["schema"].startswith("at later, newer than this program's")


async def test_a_schema_before_the_programs_is_behind(
    app: FastAPI, built: Services, anonymous: httpx.AsyncClient
) -> None:
    later = ProgramSchema("9999", built.schema.known | {"9999"})
    app.state.services = replace(built, schema=later)
    answer = await anonymous.get("/readyz/receive")
    assert (answer.status_code, answer.json()["failing"]) == (503, ["schema"])
    details = {check["name"]: check["detail"] for check in answer.json()["checks"]}
    assert "needs 9999: meterbridge migrate" in details["schema"]


async def test_what_is_booked_or_set_aside_or_young_is_not_unbooked(
    anonymous: httpx.AsyncClient, built: Services
) -> None:
    async with transaction(built.engine) as connection:
        for state, age in (("booked", 60), ("rejected", 60), ("received", 14)):
            await connection.execute(text(UNBOOKED.format(state=state, minutes=age)))
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (200, [])
    details = {check["name"]: check["detail"] for check in answer.json()["checks"]}
    assert int(details["oldest_unbooked"].removesuffix(" s")) >= 14 * 60


async def test_no_database_no_readiness_but_alive(
    app: FastAPI, built: Services, anonymous: httpx.AsyncClient
) -> None:
    away = create_engine(built.engine.url.set(host="127.0.0.1", port=9, query={}), pool_size=3)
    app.state.services = replace(built, engine=away)
    answer = await anonymous.get("/readyz/receive")
    assert (answer.status_code, answer.json()["failing"]) == (503, ["database"])
    assert (await anonymous.get("/healthz")).json() == {"status": "alive"}
    await away.dispose()


async def test_no_signing_secret(
    app: FastAPI, built: Services, anonymous: httpx.AsyncClient
) -> None:
    app.state.services = replace(built, verifier=None)
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (503, ["signing_secret"])
    assert (await anonymous.post("/webhooks/openmeter", content=b"{}")).status_code == 503
