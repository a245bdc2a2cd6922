"""Loaded by schemathesis: signs what it sends to the webhook, to come past the signature."""

import os
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import requests
import schemathesis
from svix.webhooks import Webhook

HEADERS = {"svix-id", "svix-timestamp", "svix-signature"}


class Sign(requests.auth.AuthBase):
    """Signs a prepared request."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """What lacks a header, or is no text, stays as it is: that, too, must be refused."""
        if not {name.lower() for name in request.headers} >= HEADERS:
            return request
        body = request.body or b""
        raw = body if isinstance(body, bytes) else str(body).encode()
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return request
        now = datetime.now(UTC)
        svix_id = f"msg_{uuid4().hex}"
        signature = Webhook(os.environ["TEST_WEBHOOK_SECRET"]).sign(svix_id, now, text)
        request.headers["svix-id"] = svix_id
        request.headers["svix-timestamp"] = str(int(now.timestamp()))
        request.headers["svix-signature"] = signature
        return request


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Sign webhooks."""
    if case.operation.path == "/webhooks/openmeter" and case.method == "POST":
        kwargs["auth"] = Sign()
