"""Everything that one sandbox holds. There is no state anywhere else."""

from app.sandbox.account import Account
from app.sandbox.clock import SandboxClock
from app.sandbox.errors import StripeError
from app.sandbox.faults import Faults
from app.sandbox.idempotency import IdempotencyKeys
from app.sandbox.ids import Ids
from app.sandbox.keyring import Keyring
from app.sandbox.ledger import Ledger, Traffic
from app.sandbox.locks import Locks
from app.sandbox.ratelimit import RateLimiter
from app.sandbox.settings import Settings


class Sandbox:
    """One Stripe sandbox account with its clock, keys, limits, faults and books."""

    account: Account
    faults: Faults
    idempotency: IdempotencyKeys
    keyring: Keyring
    ledger: Ledger
    locks: Locks
    limiter: RateLimiter
    settings: Settings
    traffic: Traffic

    def __init__(
        self, *, api_keys: frozenset[str], clock: SandboxClock, limit_per_second: int
    ) -> None:
        self.clock = clock
        self.ids = Ids()
        self._api_keys = api_keys
        self._limit_per_second = limit_per_second
        self._clear()

    def reset(self) -> None:
        """As it was at the start, with the same API keys and the clock back at real time."""
        self.clock.reset()
        self._clear()

    def move_clock(self, at: int, *, frozen: bool) -> None:
        """Set the clock. Raises StripeError (400) for a way back while subscriptions stand.

        Their closed periods are invoiced; nothing could open them again.
        """
        if at < self.clock.now() and self.account.subscriptions():
            raise StripeError(400, "The clock cannot go back while there are subscriptions.")
        self.clock.set(at, frozen=frozen)

    def _clear(self) -> None:
        self.settings = Settings(limit_per_second=self._limit_per_second)
        self.account = Account(self.clock, self.ids)
        self.faults = Faults(self.ids)
        self.idempotency = IdempotencyKeys()
        self.keyring = Keyring(self._api_keys)
        self.ledger = Ledger()
        self.locks = Locks()
        self.limiter = RateLimiter()
        self.traffic = Traffic()
