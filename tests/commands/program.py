"""The real `meterbridge` program as a process, with settings of a test's own and no others."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner, Result

from app.cli import app
from app.commands.demo_children import clean_environment
from app.commands.demo_http import LocalApi, NoAnswer
from tests.ports import free_port

MAIN = "from app.cli import main; main()"
DEADLINE = 60.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN = "an-admin-token-of-tests"


@dataclass(frozen=True)
class Program:
    """Runs commands in `folder`, where no `.env` lies."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(os.environ) | {"COLUMNS": "80"} | dict(self.settings)

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """One command, to its end."""
        return subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            cwd=self.folder,
            env=self.environment | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def here(self, *arguments: str, **settings: str) -> Result:
        """One command in this process, which saves a second: for what touches no log."""
        given = dict.fromkeys(os.environ.keys() - self.environment.keys()) | self.environment
        with chdir(self.folder):
            return CliRunner().invoke(app, arguments, env={**given, **settings})

    @contextmanager
    def started(self, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command that goes on; ended at the end of the block at the latest."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", MAIN, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[str]:
        """A service that answers; gives its URL."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        log = self.folder / "serve.log"
        with self.started(log, "serve", "--port", str(port), *arguments) as process:
            deadline = time.monotonic() + DEADLINE
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    LocalApi(url).call("GET", "/healthz")
                except NoAnswer:
                    time.sleep(0.02)
                    continue
                break
            yield url


def wait_for_text(log: Path, text: str, process: subprocess.Popen[bytes]) -> str:
    """Wait until a log holds a text; returns the log."""
    deadline = time.monotonic() + DEADLINE
    while text not in (said := log.read_text()):
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.02)
    return said
