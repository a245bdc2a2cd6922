"""The published recipe as a process: Node, with the official packages, installed by the bench."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bench.account import PRICE
from bench.processes import PROJECT, Process
from bench.stage import Stage
from bench.traffic import METER

_SOURCE = Path(__file__).parent / "recipe"
# Ignored by git. The packages stay there, so that a second run installs nothing.
_INSTALLED = PROJECT / ".bench" / "recipe"
_FILES = ("package.json", "handler.mjs")
_INSTALL_TIMEOUT = 180.0


class RecipeMissing(Exception):
    """It cannot be run here; the message says why."""


def install() -> Path:
    """The folder with the handler and its packages. Raises RecipeMissing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise RecipeMissing("node or npm is missing")
    _INSTALLED.mkdir(parents=True, exist_ok=True)
    stamp = _INSTALLED / "installed.json"
    wanted = (_SOURCE / "package.json").read_text()
    for name in _FILES:
        shutil.copyfile(_SOURCE / name, _INSTALLED / name)
    if not stamp.exists() or stamp.read_text() != wanted:
        # By name and exact version, from whatever registry npm is set to; no lock file, because
        # it would name one.
        command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        try:
            subprocess.run(  # noqa: S603 - npm, in a folder of the bench's own
                command, cwd=_INSTALLED, check=True, capture_output=True, timeout=_INSTALL_TIMEOUT
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RecipeMissing(f"npm install failed ({type(error).__name__})") from None
        stamp.write_text(wanted)
    return _INSTALLED


class Recipe:
    """The handler on a stage; started again after a kill."""

    def __init__(self, stage: Stage, folder: Path, subscriptions: Mapping[str, str]) -> None:
        self._stage = stage
        self._folder = folder
        self._config = stage.folder / "recipe.json"
        address = urlsplit(stage.stripe_url)
        self._config.write_text(
            json.dumps(
                {
                    "secret": stage.secret,
                    "stripeKey": stage.stripe_key,
                    "stripeHost": address.hostname,
                    "stripePort": address.port,
                    "prices": {METER: PRICE},
                    "subscriptions": dict(subscriptions),
                }
            )
        )
        self._config.chmod(0o600)
        self.process = self._start()
        self.url = self._url()

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.process.kill()
        self.process = self._start()
        self.url = self._url()

    def _start(self) -> Process:
        node = shutil.which("node") or "node"
        command = [node, str(self._folder / "handler.mjs"), str(self._config)]
        return self._stage.start(Process("recipe", command, folder=self._stage.folder, talks=True))

    def _url(self) -> str:
        return f"http://127.0.0.1:{self.process.hear()['port']}"
