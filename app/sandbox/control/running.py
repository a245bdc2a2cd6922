"""How the sandbox runs: its clock, its settings, its keys, and starting over."""

from fastapi import APIRouter

from app.sandbox.control.models import (
    ApiKey,
    ClockSetting,
    ClockState,
    ClockStep,
    RevokedKey,
    SettingsChange,
)
from app.sandbox.errors import StripeError
from app.sandbox.sandbox import Sandbox
from app.sandbox.settings import Settings


def build_router(sandbox: Sandbox) -> APIRouter:
    """Routes of clock, settings, keys and reset."""
    router = APIRouter(tags=["running"])
    router.include_router(_clock(sandbox))

    @router.get("/settings")
    async def read_settings() -> Settings:
        """Limits, grace, latencies."""
        return sandbox.settings

    @router.patch("/settings")
    async def change_settings(change: SettingsChange) -> Settings:
        """Change some settings; the others stay."""
        wanted = change.model_dump(exclude_none=True)
        try:
            sandbox.settings = Settings.model_validate(sandbox.settings.model_dump() | wanted)
        except ValueError as error:
            raise StripeError(400, f"Invalid settings: {error}") from error
        return sandbox.settings

    @router.put("/keys", status_code=204)
    async def put_key(key: ApiKey) -> None:
        """Add an API key, or change what it may do."""
        sandbox.keyring.put(key.key, key.permissions)

    @router.post("/keys/revoke", status_code=204)
    async def revoke_key(key: RevokedKey) -> None:
        """Take an API key away: it is answered 401 from now on."""
        sandbox.keyring.revoke(key.key)

    @router.post("/reset", status_code=204)
    async def reset() -> None:
        """Start over: no objects, books or faults; API keys and settings as at the start."""
        sandbox.reset()

    return router


def _clock(sandbox: Sandbox) -> APIRouter:
    router = APIRouter(prefix="/clock")

    def state() -> ClockState:
        return ClockState(now=sandbox.clock.now(), frozen=sandbox.clock.frozen)

    @router.get("")
    async def read_clock() -> ClockState:
        """What the clock says."""
        return state()

    @router.put("")
    async def set_clock(setting: ClockSetting) -> ClockState:
        """Put the clock somewhere, standing still or running on from there.

        It cannot go back while there are subscriptions: their closed periods are invoiced.
        """
        at = sandbox.clock.now() if setting.at is None else setting.at
        sandbox.move_clock(at, frozen=setting.frozen)
        return state()

    @router.post("/advance")
    async def advance_clock(step: ClockStep) -> ClockState:
        """Move the clock forward."""
        sandbox.clock.advance(step.seconds)
        return state()

    return router
