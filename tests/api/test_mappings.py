"""The mappings over REST."""

from typing import Any

import httpx
import pytest

FILE = {
    "meters": [{"meter": "ai_prompt_tokens", "price": "price_tokens", "scale": "1/1000"}],
    "subjects": [
        {"subject": "customer-1", "subscription": "sub_1", "valid_to": "2026-07-01"},
        {"subject": "customer-1", "subscription": "sub_2", "valid_from": "2026-07-01"},
    ],
}


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
    assert again.json() == {"dry_run": False, "changes": [], "notes": []}


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
