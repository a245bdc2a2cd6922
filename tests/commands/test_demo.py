"""The demo as a process: it passes, it fails when the sides differ, it leaves nothing behind."""

import signal
from pathlib import Path

import psutil
import pytest

from app.commands.demo_http import LocalApi
from app.config import Settings
from tests.commands.program import DEADLINE, Program, wait_for_text

pytestmark = pytest.mark.acceptance

# A user's own settings: none of them may be used, or even looked at.
HOSTILE = {name.upper(): "not a value of any setting" for name in Settings.model_fields} | {
    "STRIPE_API_KEY": "sk_live_of_the_user",
    "DATABASE_URL": "postgresql://me@127.0.0.1:1/production",
    "http_proxy": "http://127.0.0.1:1",
    "PGHOST": "127.0.0.1",
}


@pytest.fixture
def hostile(place: Path) -> Program:
    """A user's folder with a `.env` of its own, and a folder for temporary files."""
    work, temporary = place / "work", place / "tmp"
    for folder in (work, temporary):
        folder.mkdir()
        folder.chmod(0o711)
    (work / ".env").write_text("\n".join(f"{k}={v}" for k, v in HOSTILE.items()))
    return Program(work, HOSTILE | {"TMPDIR": str(temporary)})


def left_behind(program: Program) -> list[object]:
    """Folders of the demo, and processes that work in them."""
    temporary = Path(program.settings["TMPDIR"])
    running = [
        process.info
        for process in psutil.process_iter(["pid", "cmdline", "cwd"])
        if str(temporary) in f"{process.info['cwd']} {process.info['cmdline']}"
    ]
    return [*temporary.iterdir(), *running]


def test_once_ends_well(hostile: Program) -> None:
    done = hostile.run("demo", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "EQUAL: Stripe holds exactly what OpenMeter sent" in done.stdout
    assert done.stdout.count("equal") == 5
    for reason in ("no_subject_mapping", "before_subscription", "aggregation_unsupported"):
        assert reason in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "sk_live" not in done.stdout
    assert left_behind(hostile) == []


def test_a_difference_fails_it_and_ctrl_c_ends_it(hostile: Program, tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with hostile.started(log, "demo") as process:
        said = wait_for_text(log, "Stripe account", process)
        sandbox = next(line.split()[-1] for line in said.splitlines() if "http://" in line)
        # From now on every item holds one unit, whatever is sent.
        summaries = '{"object": "list", "data": [{"total_usage": 1}], "has_more": false}'
        LocalApi(sandbox).call(
            "POST",
            "/_sandbox/faults",
            {
                "kind": "garbage",
                "body": summaries,
                "times": None,
                "match": {"operation": "list_usage_record_summaries"},
            },
        )
        said = wait_for_text(log, "Ctrl-C", process)
        assert "EQUAL" not in said
        assert "NOT AS IT MUST BE" in said
        assert "si_acme_tokens: OpenMeter sent 2501, Stripe holds 1" in said
        assert "si_initech_price_addon_11: OpenMeter sent 0, Stripe holds 1" in said
        assert "WRONG" in said

        [curl] = [line for line in said.splitlines() if "/v1/summary" in line]
        token, url = curl.split("Bearer ")[1].split("' ")
        service = LocalApi(url.removesuffix("/v1/summary"), {"Authorization": f"Bearer {token}"})
        assert service.call("GET", "/v1/summary")["drained"] is True
        assert service.call("GET", "/readyz")["status"] == "ready"

        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 1
    assert left_behind(hostile) == []


def test_given_up_while_it_starts(hostile: Program, tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with hostile.started(log, "demo", "--once") as process:
        wait_for_text(log, "Stripe account", process)
        process.terminate()
        assert process.wait(DEADLINE) == 130
    assert "Stopped." in log.read_text()
    assert left_behind(hostile) == []
