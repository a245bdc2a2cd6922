"""The demo's stage: a sandbox and a service as child processes, and the mapping file applied."""

import base64
import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import app
from app.commands.demo_children import Child, ChildFailed, children_environment, free_port
from app.commands.demo_http import LocalApi, NoAnswer, Refused

START_TIMEOUT = 90.0  # the first PostgreSQL cluster, on a slow disk
# A port that was free a moment ago can be taken when the service binds it.
PORT_TRIES = 3
_TAKEN = "address already in use"
_LISTENING = "Stripe sandbox listening on "


class DemoFailed(Exception):
    """The demo cannot go on; the message says why and what to do."""


def webhook_secret() -> str:
    """A new signing secret."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made for one demo; nobody else's are used."""

    webhook: str = field(default_factory=webhook_secret, repr=False)
    admin: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    stripe: str = field(default_factory=lambda: f"sk_test_{secrets.token_hex(12)}", repr=False)


@dataclass(frozen=True, slots=True)
class Started:
    """A server that answers. `api` carries the token it asks for."""

    api: LocalApi
    child: Child


def mapping_file() -> Path:
    """The example: inside an installed wheel, or beside the package in a checkout."""
    package = Path(app.__file__).parent
    for folder in (package / "_examples", package.parent / "examples"):
        found = folder / "mappings.yaml"
        if found.is_file():
            return found
    raise DemoFailed("examples/mappings.yaml is missing: run the demo from a checkout.")


class Stage:
    """Starts children in `folder`; each is stopped, the newest first, when `stack` is closed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.secrets = Secrets()
        self._folder = folder
        self._stack = stack
        self._servers: list[Child] = []
        self._settings = {
            "METERBRIDGE_DATA_DIR": str(folder / "data"),
            "OPENMETER_WEBHOOK_SECRETS": self.secrets.webhook,
            "ADMIN_TOKENS": self.secrets.admin,
            "STRIPE_API_KEY": self.secrets.stripe,
            "DISPATCH_LINGER": "0.2",
            "LOG_FORMAT": "text",
        }
        if os.geteuid() == 0:
            folder.chmod(0o711)  # PostgreSQL runs as another user, who must pass through

    def start_sandbox(self) -> Started:
        """Start Stripe's stand-in on a port it chooses. Raises ChildFailed."""
        child = self._child("sandbox", "--port", "0", "--api-key", self.secrets.stripe)

        def listening() -> str | None:
            for line in child.output().splitlines(keepends=True):
                if line.startswith(_LISTENING) and line.endswith("\n"):
                    return line.removeprefix(_LISTENING).strip()
            return None

        url = child.until(listening, seconds=START_TIMEOUT, what="starting")
        self._settings["STRIPE_API_BASE"] = url
        self._servers.append(child)
        return Started(LocalApi(url), child)

    def start_service(self) -> Started:
        """Start the service with a PostgreSQL of its own. Raises ChildFailed."""
        for _ in range(PORT_TRIES - 1):
            try:
                return self._start_service()
            except ChildFailed as failure:
                if _TAKEN not in failure.child.output():
                    raise
        return self._start_service()

    def _start_service(self) -> Started:
        port = free_port()
        child = self._child("serve", "--port", str(port))
        authorization = {"Authorization": f"Bearer {self.secrets.admin}"}
        api = LocalApi(f"http://127.0.0.1:{port}", authorization)

        def answers() -> bool | None:
            try:
                # Only our own service knows the token: a stranger on the port is not taken for it.
                api.call("GET", "/v1/summary")
            except (NoAnswer, Refused):
                return None
            return True

        child.until(answers, seconds=START_TIMEOUT, what="starting")
        self._servers.append(child)
        return Started(api, child)

    def apply_mappings(self) -> str:
        """Run `meterbridge mappings apply`; returns its last line. Raises ChildFailed."""
        child = self._child("mappings", "apply", str(mapping_file()))
        return child.finish(seconds=START_TIMEOUT).strip().splitlines()[-1]

    def ended(self) -> ChildFailed | None:
        """The server that has ended, if one has: its last words come a moment after its silence."""
        for child in self._servers:
            code = child.ended_within(1.0)
            if code is not None:
                return ChildFailed(f"`{child.command}` ended with exit code {code}", child)
        return None

    def _child(self, *arguments: str) -> Child:
        environment = children_environment(self._settings)
        return self._stack.enter_context(
            Child(arguments, folder=self._folder, environment=environment)
        )
