"""What the webhook route takes, for its OpenAPI operation: headers, and the body by example."""

from typing import Any

_TIME = {"type": "string", "format": "date-time"}
_NULLABLE_TEXT = {"type": ["string", "null"]}

_REPORT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "UsageReport",
    "description": "Members that are not named here are tolerated.",
    "required": ["type", "usage", "meter"],
    "properties": {
        "type": {"type": "string", "examples": ["report.meter"]},
        "report": {"type": ["object", "null"], "properties": {"slug": _NULLABLE_TEXT}},
        "usage": {
            "type": "array",
            "maxItems": 10_000,
            "items": {
                "type": "object",
                "required": ["value", "windowStart", "windowEnd"],
                "properties": {
                    "subject": {
                        "type": ["string", "null"],
                        "maxLength": 512,
                        "description": "Absent, null or empty: `query.subject`.",
                    },
                    "value": {
                        "type": ["number", "string"],
                        "description": "Read as a decimal, digit by digit.",
                    },
                    "groupBy": {
                        "type": ["object", "null"],
                        "additionalProperties": _NULLABLE_TEXT,
                    },
                    "windowStart": {**_TIME, "description": "Inclusive."},
                    "windowEnd": {**_TIME, "description": "Exclusive; after windowStart."},
                },
            },
        },
        "query": {"type": ["object", "null"], "properties": {"subject": _NULLABLE_TEXT}},
        "meter": {
            "type": "object",
            "required": ["slug"],
            "properties": {
                "id": _NULLABLE_TEXT,
                "slug": {
                    "type": "string",
                    "pattern": "^[a-z0-9]+(?:_[a-z0-9]+)*$",
                    "maxLength": 64,
                },
                "aggregation": {
                    "type": ["string", "null"],
                    "examples": ["SUM", "COUNT", "AVG", "MIN", "MAX", "UNIQUE_COUNT", "LATEST"],
                },
            },
        },
    },
}

_REPORT_EXAMPLE: dict[str, Any] = {
    "type": "report.meter",
    "report": {"slug": "my_usage_report"},
    "usage": [
        {
            "subject": "customer-1",
            "value": 500,
            "groupBy": {"model": "gpt-4"},
            "windowStart": "2023-01-01T00:00:00Z",
            "windowEnd": "2023-01-02T00:00:00Z",
        },
        {
            "subject": "customer-1",
            "value": 10000,
            "groupBy": {"model": "gpt-3-turbo"},
            "windowStart": "2023-01-01T00:00:00Z",
            "windowEnd": "2023-01-02T00:00:00Z",
        },
    ],
    "query": {
        "from": "2023-01-01T00:00:00Z",
        "to": "2023-01-02T00:00:00Z",
        "subject": "customer-1",
        "groupBy": ["model"],
    },
    "meter": {
        "id": "01H98E5HHJ8K0AYXQKM3EKAVYG",
        "slug": "ai_prompt_tokens",
        "description": "AI tokens",
        "aggregation": "SUM",
        "eventType": "prompt",
        "valueProperty": "$.tokens",
        "groupBy": {"model": "$.model"},
        "windowSize": "MINUTE",
    },
}


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    # Not `required`: the `webhook-*` names are taken as well, and a missing one is a 401.
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


WEBHOOK_DOCUMENT: dict[str, Any] = {
    "parameters": [
        _header(
            "svix-id",
            "Names the message; the same on every retry (or `webhook-id`).",
            "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
        ),
        _header(
            "svix-timestamp",
            "Unix seconds, within five minutes of now (or `webhook-timestamp`).",
            "1674087231",
        ),
    ],
    "requestBody": {
        "required": True,
        "description": "At most 1 MiB, not compressed.",
        "content": {
            "application/json": {
                "schema": _REPORT_SCHEMA,
                "examples": {"report.meter": {"value": _REPORT_EXAMPLE}},
            }
        },
    },
}
