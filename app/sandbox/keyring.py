"""API keys and what they may do."""

from app.sandbox.errors import invalid_api_key, missing_permission, no_api_key

ACCOUNT = "acct_sandbox"


class Keyring:
    """The account's API keys. A key without a list of permissions may do everything."""

    def __init__(self, keys: frozenset[str]) -> None:
        self._permissions: dict[str, frozenset[str] | None] = dict.fromkeys(keys)

    def put(self, key: str, permissions: frozenset[str] | None) -> None:
        """Add a key, or change what it may do; `None` is everything."""
        self._permissions[key] = permissions

    def revoke(self, key: str) -> None:
        """Take a key away; one that is not there is no error."""
        self._permissions.pop(key, None)

    def known(self, key: str | None) -> str:
        """The key itself. Raises StripeError (401) for none or a wrong one."""
        if key is None:
            raise no_api_key()
        if key not in self._permissions:
            raise invalid_api_key(redacted(key))
        return key

    def require(self, key: str, permission: str) -> None:
        """Raises StripeError (403) when the key lacks the permission."""
        permissions = self._permissions.get(key)
        if permissions is not None and permission not in permissions:
            raise missing_permission(redacted(key), ACCOUNT, permission)


def redacted(key: str) -> str:
    """A key as Stripe shows it: the kind and the last four characters."""
    if len(key) <= 12:
        return "*" * len(key)
    return f"{key[:8]}{'*' * (len(key) - 12)}{key[-4:]}"
