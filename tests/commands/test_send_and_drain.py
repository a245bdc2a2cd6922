"""`send` and `drain` against the real service; it receives, and books nothing."""

import base64

from tests.commands.program import Program
from tests.ports import free_port

USAGE = ("--subject", "customer-1", "--meter", "api_calls", "--value", "7")
OTHER_SECRET = "whsec_" + base64.b64encode(b"x" * 24).decode()


def test_send_then_drain(program: Program) -> None:
    fresh = program.run("drain", "--timeout", "0")
    assert fresh.returncode == 0
    assert "nothing is left" in fresh.stdout

    with program.serving("--no-worker") as url:
        address = ("--url", f"{url}/webhooks/openmeter")
        window = ("--from", "2026-03-01T00:00:00", "--to", "2026-03-01T01:00:00")
        for answer in ("202", "200"):
            said = program.here("send", *USAGE, *address, *window, "--message-id", "msg_one")
            assert (said.exit_code, said.stderr) == (0, "")
            assert answer in said.stdout
            assert "2026-03-01 00:00 to 2026-03-01 01:00" in said.stdout

        wrong = program.here("send", *USAGE, *address, "--secret", OTHER_SECRET)
        assert wrong.exit_code == 1
        assert "401" in wrong.stdout

    left = program.run("drain", "--timeout", "0")
    assert left.returncode == 1
    assert "1 deliveries to book" in left.stdout
    assert "worker" in left.stdout


def test_nobody_listens(program: Program) -> None:
    url = f"http://127.0.0.1:{free_port()}/webhooks/openmeter"
    done = program.here("send", *USAGE, "--url", url)
    assert done.exit_code == 1
    assert "Nobody answers at" in done.stdout
    assert url in done.stdout.replace("\n", "")
    assert isinstance(done.exception, SystemExit)


def test_what_cannot_be_sent_is_refused_before(program: Program) -> None:
    for arguments, settings, word, other in (
        (("--subject", "a", "--meter", "b", "--value", "many"), {}, "--value", "--group"),
        ((*USAGE, "--group", "model"), {}, "--group", "--value"),
        (USAGE, {"OPENMETER_WEBHOOK_SECRETS": ""}, "OPENMETER_WEBHOOK_SECRETS", "--value"),
    ):
        done = program.here("send", *arguments, **settings)
        assert done.exit_code == 2
        assert word in done.stderr
        assert other not in done.stderr
        assert isinstance(done.exception, SystemExit)
