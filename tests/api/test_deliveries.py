"""`GET /v1/deliveries`: what was refused or could not be booked can be found, and says why."""

import json

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.mapping.stripe_side import NOW

FAULTS = {
    "rejected": [{"path": "usage.0.value", "message": "is not a number"}],
    "failed": [{"path": "", "message": "ZeroDivisionError"}],
}


@pytest.fixture
async def states(engine: AsyncEngine) -> list[str]:
    """Of each kind some, in turns; by `svix-id` they are msg_0, msg_1 and so on."""
    states = ["received", "rejected", "booked", "failed", "rejected", "failed", "rejected"]
    async with engine.begin() as connection:
        for number, state in enumerate(states):
            faults = FAULTS.get(state)
            await connection.execute(
                text(
                    "insert into deliveries (svix_id, body, body_sha256, message_at, received_at,"
                    " state, faults, settled_at) values (:svix_id, 'secret body', '', :now, :now,"
                    " :state, cast(:faults as jsonb), :now)"
                ),
                {
                    "svix_id": f"msg_{number}",
                    "now": NOW,
                    "state": state,
                    "faults": json.dumps(faults) if faults else None,
                },
            )
    return states


@pytest.mark.parametrize("state", [None, "rejected", "failed"])
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_all_that_wait_are_listed_page_by_page(
    client: httpx.AsyncClient, states: list[str], state: str | None, limit: int
) -> None:
    expected = {
        f"msg_{number}": kind
        for number, kind in enumerate(states)
        if kind in ({state} if state else FAULTS)
    }
    seen: dict[str, str] = {}
    after: int | None = 0
    while after is not None:
        asked = {"state": state, "after": after, "limit": limit}
        answer = await client.get(
            "/v1/deliveries", params={k: v for k, v in asked.items() if v is not None}
        )
        assert answer.status_code == 200, answer.text
        assert "secret body" not in answer.text
        page = answer.json()
        assert len(page["data"]) <= limit
        for one in page["data"]:
            assert one["svix_id"] not in seen
            seen[one["svix_id"]] = one["state"]
            assert one["faults"] == FAULTS[one["state"]]
            assert one["action"]
        after = page["next_after"]
    assert seen == expected


@pytest.mark.parametrize("state", ["booked", "received", ""])
async def test_what_does_not_wait_cannot_be_asked_for(
    client: httpx.AsyncClient, state: str
) -> None:
    answer = await client.get("/v1/deliveries", params={"state": state})
    assert answer.status_code == 422
