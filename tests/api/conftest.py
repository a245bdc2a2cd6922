"""The whole application in process, on a real database; Stripe is a sandbox in process."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.engine import URL

from app.bootstrap import Services, receiving, services
from app.config import Settings
from app.main import create_app

TOKEN = "an-admin-token-of-tests"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def settings(fresh_url: URL) -> Settings:
    return Settings(
        _env_file=None,
        database_url=SecretStr(fresh_url.render_as_string(hide_password=False)),
        openmeter_webhook_secrets=(SecretStr(SECRET),),
        stripe_api_key=SecretStr("sk_test_sandbox"),
        stripe_api_base="http://127.0.0.1:9",
        admin_tokens=(SecretStr("another-admin-token"), SecretStr(TOKEN)),
    )


@pytest.fixture
async def built(settings: Settings, fresh_url: URL) -> AsyncIterator[Services]:
    """Services that receive, but neither book nor send by themselves."""
    async with services(settings, fresh_url) as made, receiving(made):
        yield made


@pytest.fixture
def app(settings: Settings, built: Services) -> FastAPI:
    made = create_app(settings, built)
    made.state.services = built  # ASGITransport runs no lifespan
    return made


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"Authorization": f"Bearer {TOKEN}"}
    ) as client:
        yield client
