"""The demo's children: which settings they see, and what is said when one fails."""

import io
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

import app
from app.commands import demo, demo_stage
from app.commands.demo_children import Child, ChildFailed, children_environment, clean_environment
from app.commands.demo_http import NoAnswer
from app.commands.demo_stage import Secrets, Stage
from app.config import Settings


def test_no_setting_reaches_a_child() -> None:
    hostile = {name.upper(): "x" for name in Settings.model_fields}
    hostile |= dict.fromkeys(Settings.model_fields, "x")
    hostile |= {"Stripe_Api_Key": "sk_live_x", "PGHOST": "production", "PGPASSFILE": "x"}
    kept = {"PATH": "/bin", "HOME": "/home/me", "LANG": "C", "TMPDIR": "/home/me/tmp"}
    assert clean_environment(hostile | kept) == kept


def test_the_demos_own_settings_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_real")
    found = children_environment({"ADMIN_TOKENS": "t"})
    assert "STRIPE_API_KEY" not in found
    assert found["ADMIN_TOKENS"] == "t"


def test_secrets_are_fresh_and_never_shown() -> None:
    one, other = Secrets(), Secrets()
    assert one.webhook != other.webhook
    assert one.admin != other.admin
    assert one.stripe.startswith("sk_test_")
    assert one.admin not in repr(one)
    Settings(
        _env_file=None,
        openmeter_webhook_secrets=one.webhook,
        admin_tokens=one.admin,
    )


def _child(tmp_path: Path, *arguments: str) -> Child:
    return Child(arguments, folder=tmp_path, environment=children_environment({}))


def test_a_child_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with _child(tmp_path, "serve", "--port", "0") as child:
        with pytest.raises(ChildFailed, match="exit code 2"):
            child.until(lambda: None, seconds=60, what="starting")
        assert "--port" in child.tail()


def test_a_child_that_is_slow_is_told(tmp_path: Path) -> None:
    with _child(tmp_path, "sandbox", "--port", "0") as child:
        with pytest.raises(ChildFailed, match="starting took longer than 0 s"):
            child.until(lambda: None, seconds=0, what="starting")
        process = child.process
        assert process.poll() is None
    assert process.poll() is not None


def test_a_command_that_fails_is_told(tmp_path: Path) -> None:
    with (
        _child(tmp_path, "mappings", "apply", "nowhere.yaml") as child,
        pytest.raises(ChildFailed, match=r"`meterbridge mappings apply nowhere\.yaml` ended"),
    ):
        child.finish(seconds=60)


def test_the_demo_shows_the_log_of_what_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no [room] left\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    output = io.StringIO()
    assert demo.run(once=True, console=Console(file=output, width=80)) == 1
    said = output.getvalue()
    assert "exit code 3" in said
    assert "no [room] left" in said
    assert "LOG_LEVEL=debug" in said


def test_a_server_that_ended_is_named(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stage = Stage(tmp_path, stack)
        sandbox = stage.start_sandbox()
        assert sandbox.api.call("GET", "/_sandbox/clock")["frozen"] is False
        sandbox.child.process.kill()
        failure = stage.ended()
        assert failure is not None
        assert "meterbridge sandbox" in str(failure)
        with pytest.raises(NoAnswer):
            sandbox.api.call("GET", "/_sandbox/clock")
        with pytest.raises(ChildFailed):
            sandbox.child.require_running()


def test_a_missing_example_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app, "__file__", str(tmp_path / "app" / "__init__.py"))
    with pytest.raises(demo_stage.DemoFailed, match="checkout"):
        demo_stage.mapping_file()
