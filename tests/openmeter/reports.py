"""Reports for the tests, and what reading them gives."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.openmeter.report import InvalidMessage, UsageReport, parse_message

DAY_1 = datetime(2023, 1, 1, tzinfo=UTC)
DAY_2 = datetime(2023, 1, 2, tzinfo=UTC)
DROP = object()


def row(**members: Any) -> dict[str, Any]:
    whole = {
        "subject": "customer-1",
        "value": 500,
        "groupBy": {"model": "gpt-4"},
        "windowStart": "2023-01-01T00:00:00Z",
        "windowEnd": "2023-01-02T00:00:00Z",
        **members,
    }
    return {name: value for name, value in whole.items() if value is not DROP}


def message(*rows: dict[str, Any], **members: Any) -> dict[str, Any]:
    whole = {
        "type": "report.meter",
        "report": {"slug": "my_usage_report"},
        "usage": list(rows),
        "query": {"subject": "customer-1", "groupBy": ["model"]},
        "meter": {"id": "01H98E5HHJ8K0AYXQKM3EKAVYG", "slug": "ai_tokens", "aggregation": "SUM"},
        **members,
    }
    return {name: value for name, value in whole.items() if value is not DROP}


def parse(whole: object) -> UsageReport:
    found = parse_message(json.dumps(whole).encode())
    assert isinstance(found, UsageReport)
    return found


def faults(body: bytes) -> tuple[tuple[str, str], ...]:
    with pytest.raises(InvalidMessage) as caught:
        parse_message(body)
    assert 1 <= len(caught.value.faults) <= 20
    return caught.value.faults


def fault_paths(whole: object) -> list[str]:
    return [path for path, _ in faults(json.dumps(whole).encode())]
