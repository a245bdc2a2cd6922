"""The mappings over REST."""

from typing import Any

import httpx
import pytest

from app.bootstrap import Services
from tests.ledger.explainable import DAY, HOUR, Written
from tests.mapping.seen_side import keep, series
from tests.mapping.stripe_side import item, snapshot

FILE = {
    "meters": [{"meter": "ai_prompt_tokens", "price": "price_tokens", "scale": "1/1000"}],
    "subjects": [
        {"subject": "customer-1", "subscription": "sub_1", "valid_to": "2026-07-01"},
        {"subject": "customer-1", "subscription": "sub_2", "valid_from": "2026-07-01"},
    ],
}


STANDS = {"subjects": [{"subject": "customer-1", "subscription": "sub_1"}]}


async def test_apply_list_and_apply_again(client: httpx.AsyncClient) -> None:
    first = await client.put("/v1/mappings", json=FILE)
    assert first.status_code == 200
    assert [(c["kind"], c["name"], c["before"]) for c in first.json()["changes"]] == [
        ("meter", "ai_prompt_tokens", ""),
        ("subject", "customer-1", ""),
    ]
    listed = (await client.get("/v1/mappings")).json()
    assert listed["meters"][0]["scale"] == "1/1000"
    assert listed["meters"][0]["price_ids"] == ["price_tokens"]
    assert [(s["subscription"], s["valid_from"], s["valid_to"]) for s in listed["subjects"]] == [
        ("sub_1", None, "2026-07-01T00:00:00Z"),
        ("sub_2", "2026-07-01T00:00:00Z", None),
    ]
    again = await client.put("/v1/mappings", json=FILE)
    assert again.json() == {
        "dry_run": False,
        "changes": [],
        "windows_moved": 0,
        "moves": [],
        "stays": [],
        "notes": [],
    }


SPLIT = {
    "meters": [
        {"meter": "tokens", "price": "price_rest", "record_per": "period"},
        {"meter": "tokens", "price": "price_4", "groups": {"model": "gpt-4"}, "late": "hold"},
        {"meter": "tokens", "price": "price_3", "groups": {"model": "gpt-3"}, "whole_period": True},
    ]
}


async def test_a_split_meter_is_listed_mapping_by_mapping(client: httpx.AsyncClient) -> None:
    applied = (await client.put("/v1/mappings", json=SPLIT)).json()
    assert [change["name"] for change in applied["changes"]] == ["tokens"]
    listed = (await client.get("/v1/mappings")).json()["meters"]
    assert [
        (m["price_ids"], m["groups"], m["record_per"], m["late"], m["whole_period"]) for m in listed
    ] == [
        (["price_rest"], None, "period", None, False),
        (["price_3"], {"model": "gpt-3"}, "window", None, True),
        (["price_4"], {"model": "gpt-4"}, "window", "hold", False),
    ]
    one = {"meters": [{"meter": "tokens", "price": "price_4"}]}
    await client.put("/v1/mappings", json=one)
    listed = (await client.get("/v1/mappings")).json()["meters"]
    assert [m["price_ids"] for m in listed] == [["price_4"]]  # the file's replace all of the meter


@pytest.mark.parametrize("dry_run", ["true", "false"])
async def test_what_could_not_be_checked_is_told(client: httpx.AsyncClient, dry_run: str) -> None:
    answer = await client.put(f"/v1/mappings?dry_run={dry_run}", json=SPLIT)
    notes = [(note["meter"], note["groups"]) for note in answer.json()["notes"]]
    assert notes == [
        ("tokens", ""),
        ("tokens", "model=gpt-3"),
        ("tokens", "model=gpt-4"),
        ("tokens", "model=gpt-3"),
    ]
    messages = [note["message"] for note in answer.json()["notes"]]
    assert all(message.startswith("not checked: ") for message in messages[:3])
    assert "OPENMETER_API_URL" in messages[3]


async def test_a_meter_that_does_not_fit_its_price_is_refused(
    client: httpx.AsyncClient, built: Services
) -> None:
    await keep(built.engine, snapshot(item(price_id="price_tokens", aggregate_usage="max")))
    await series(built.engine, "SUM", meter="ai_prompt_tokens")
    answer = await client.put("/v1/mappings", json=FILE)
    assert answer.status_code == 422
    assert answer.json()["faults"] == [
        {
            "path": "meter ai_prompt_tokens",
            "message": "price_tokens: the price has aggregate_usage max, the meter aggregates by "
            "SUM, which needs sum",
        }
    ]
    assert (await client.get("/v1/mappings")).json() == {"meters": [], "subjects": []}


async def test_a_dry_run_changes_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/mappings?dry_run=true", json=FILE)
    assert len(answer.json()["changes"]) == 2
    assert (await client.get("/v1/mappings")).json() == {"meters": [], "subjects": []}


BAD: list[tuple[Any, str]] = [
    ({"meters": [{"meter": "m", "price": "p", "scale": 0.001}]}, "meters[0]"),
    ({"meters": [{"meter": "m", "price": "p", "scale": "1/0"}]}, "meters[0]"),
    ({"meters": [{"meter": "M", "price": "p"}]}, "meters[0].meter"),
    ({"meters": [{"meter": "m"}]}, "meters[0].price"),
    ({"meters": [{"meter": "m", "price": "p", "colour": "red"}]}, "meters[0].colour"),
    ({"meters": [{"meter": "m", "price": "p", "groups": {}}]}, "meters[0].groups"),
    ({"meters": [{"meter": "m", "price": "p", "groups": {"a": None}}]}, "meters[0].groups.a"),
    ({"meters": [{"meter": "m", "price": "p", "whole_period": 1}]}, "meters[0].whole_period"),
    ({"meters": [{"meter": "m", "price": "p"}, {"meter": "m", "price": "q"}]}, "meters[1].meter"),
    ({"subjects": [{"subject": "s\u0000", "subscription": "sub_1"}]}, "subjects[0].subject"),
    (
        {"subjects": [{"subject": "s", "subscription": "sub_1", "valid_from": "yesterday"}]},
        "subjects[0].valid_from",
    ),
    (
        {
            "subjects": [
                {"subject": "s", "subscription": "sub_1"},
                {"subject": "s", "subscription": "sub_2"},
            ]
        },
        "subjects[1]",
    ),
    ([], ""),
]


@pytest.mark.parametrize(("body", "path"), BAD)
async def test_bad_input_gets_paths_and_changes_nothing(
    client: httpx.AsyncClient, body: Any, path: str
) -> None:
    good = {"meters": [{"meter": "stays", "price": "price_1"}]}
    await client.put("/v1/mappings", json=good)
    before = (await client.get("/v1/mappings")).json()
    answer = await client.put("/v1/mappings", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["faults"][0]["path"].startswith(path)
    assert "yesterday" not in answer.text
    assert (await client.get("/v1/mappings")).json() == before


MOVED = {"subjects": [{"subject": "customer-1", "subscription": "sub_2"}]}


async def test_usage_that_moves_is_shown_and_refused_without_force(
    client: httpx.AsyncClient, built: Services
) -> None:
    await client.put("/v1/mappings", json={"meters": FILE["meters"], **STANDS})
    written = Written(built.engine)
    record = await written.record(await written.period(), DAY + HOUR, 10)
    await written.window(DAY, 10, record, meter="ai_prompt_tokens")
    dry = (await client.put("/v1/mappings?dry_run=true", json=MOVED)).json()
    assert dry["windows_moved"] == 1
    assert dry["moves"] == [
        {
            "subscription": "sub_1",
            "subscription_item": "si_1",
            "period_start": "2026-03-01T00:00:00Z",
            "period_end": "2026-04-01T00:00:00Z",
            "to_subscription": "sub_2",
            "to_price": "price price_tokens",
            "windows": 1,
            "at_stripe": 1,
            "amount": "10",
            "obstacle": "period_closed",
        }
    ]
    refused = await client.put("/v1/mappings", json=MOVED)
    assert refused.status_code == 409
    problem = refused.json()
    assert problem["type"] == "urn:meterbridge:problem:mapping-moves-billed-usage"
    assert [fault["path"][:13] for fault in problem["faults"]] == ["si_1 of sub_1"]
    listed = (await client.get("/v1/mappings")).json()["subjects"]
    assert [subject["subscription"] for subject in listed] == ["sub_1"]
    forced = await client.put("/v1/mappings?force=true", json=MOVED)
    assert forced.status_code == 200
    assert forced.json() == {**dry, "dry_run": False}


async def test_what_stays_is_shown(client: httpx.AsyncClient, built: Services) -> None:
    await client.put("/v1/mappings", json={"meters": FILE["meters"], **STANDS})
    written = Written(built.engine)
    record = await written.record(await written.period(), DAY + HOUR, 10)
    await written.window(DAY, 10, record, meter="ai_prompt_tokens")
    ended = {"subject": "customer-1", "subscription": "sub_1", "valid_to": "2026-03-01"}
    applied = (await client.put("/v1/mappings", json={"subjects": [ended]})).json()
    assert applied["moves"] == []
    assert applied["stays"] == [
        {
            "subscription": "sub_1",
            "subscription_item": "si_1",
            "windows": 1,
            "why": "no mapping of their subject is valid at their time any more",
        }
    ]
