"""`meterbridge demo`: the main job on real input, with real processes, on loopback ports only.

It starts the sandbox and the service, applies the mapping file with the real command, signs and
sends webhooks, disturbs Stripe meanwhile, and compares what it sent with what Stripe holds.
"""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from app.commands import demo_tables, outgoing
from app.commands.demo_children import ChildFailed
from app.commands.demo_comparison import Answered, compare, differences, standing
from app.commands.demo_http import LocalApi, NoAnswer, Refused
from app.commands.demo_scenario import BILLED, Delivery, deliveries
from app.commands.demo_stage import DemoFailed, Secrets, Stage, Started, webhook_secret
from app.commands.demo_stripe import DemoAccount
from app.commands.demo_tables import ParkedRow

DRAIN_TIMEOUT = 60.0
FAILED = 1
INTERRUPTED = 130
_WEBHOOKS = "/webhooks/openmeter"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.2

Say = Callable[[str], None]


def run(*, once: bool, console: Console) -> int:
    """Run the demo. Returns the exit code: 0 only if both sides are equal and all was seen."""
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="meterbridge-demo-", ignore_cleanup_errors=True)
        )
        stage = Stage(Path(folder), stack)
        try:
            return _Demo(stage, console).run(once=once)
        except KeyboardInterrupt:
            console.print("Stopped.")
            return INTERRUPTED
        except ChildFailed as failure:
            _print_child(console, failure)
        except (DemoFailed, NoAnswer, Refused) as failure:
            ended = stage.ended()
            if ended is not None:  # the cause of what was seen here
                _print_child(console, ended)
            else:
                console.print(f"[bold red]The demo failed[/bold red]: {escape(str(failure))}")
        finally:
            _ignore_signals()  # what is being stopped is stopped to the end
    return FAILED


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM (a CI job given up) and SIGHUP (a terminal closed) clean up as Ctrl-C does."""
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _print_child(console: Console, failure: ChildFailed) -> None:
    console.print(f"[bold red]The demo failed[/bold red]: {escape(str(failure))}. It said last:")
    console.print(failure.child.tail(), markup=False, highlight=False, soft_wrap=True)
    console.print(
        "If that names a folder, choose another place with TMPDIR and run the demo again. "
        "Otherwise run that command by itself with LOG_LEVEL=debug, and report what it says."
    )


class _Demo:
    """One run on a stage."""

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._began = time.monotonic()

    def run(self, *, once: bool) -> int:
        """From the start of the children to the verdict; returns the exit code."""
        now = datetime.now(UTC)
        sent = deliveries(now)
        self._console.print("Service, database and a stand-in for Stripe, on this machine only.\n")
        with self._step("Stripe sandbox") as say:
            sandbox = self._stage.start_sandbox()
            say(sandbox.api.url)
        key = {"Authorization": f"Bearer {self._stage.secrets.stripe}"}
        account = DemoAccount(sandbox.api, LocalApi(sandbox.api.url, key))
        with self._step("Stripe account") as say:
            say(account.set_up(now.replace(hour=0, minute=0, second=0, microsecond=0)))
        with self._step("Service and PostgreSQL") as say:
            service = self._stage.start_service()
            say(service.api.url)
        with self._step("mappings apply") as say:
            say(self._stage.apply_mappings())
        account.disturb()
        with self._step("Signed webhooks") as say:
            answers = [self._send(service.api, delivery, say) for delivery in sent]
            say(f"{len(answers)} sent, over HTTP")
        with self._step("Drained") as say:
            self._drain(service, say)
        exit_code = self._judge(account, service.api, answers)
        if not once:
            self._stay(service, sandbox)
        return exit_code

    @contextmanager
    def _step(self, name: str) -> Iterator[Say]:
        """One step of the run: what is said last stays on its line."""
        last = ""
        with self._console.status(name) as status:

            def say(text: str) -> None:
                nonlocal last
                last = text
                status.update(f"{name}: {escape(text)}")

            yield say
        seconds = time.monotonic() - self._began
        self._console.print(
            f"[green]ok[/green] {seconds:5.1f} s  {name:<23} {escape(last)}", highlight=False
        )

    def _send(self, service: LocalApi, delivery: Delivery, say: Say) -> Answered:
        say(delivery.title)
        secret = webhook_secret() if delivery.forged else self._stage.secrets.webhook
        body = delivery.body
        headers = outgoing.signed_headers(secret, delivery.svix_id, body)
        status, _ = service.exchange("POST", _WEBHOOKS, body, headers)
        return Answered(delivery, status)

    def _drain(self, service: Started, say: Say) -> None:
        """Wait until nothing is left to do. Raises DemoFailed."""
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while True:
            summary = service.api.call("GET", "/v1/summary")
            records = summary["records"]
            say(f"{records['reported']} records reported, {records['due']} to send")
            if summary["drained"]:
                say(f"{records['reported']} records reported, nothing left to do")
                return
            service.child.require_running()
            if time.monotonic() >= deadline:
                raise ChildFailed(
                    f"after {DRAIN_TIMEOUT:g} s there is still work to do "
                    f"(deliveries {summary['deliveries']['received']}, windows "
                    f"{summary['windows']['pending']}, records {records['due']}; line: "
                    f"{summary['line']['reason'] or 'open'})",
                    service.child,
                )
            time.sleep(_POLL)

    def _judge(self, account: DemoAccount, service: LocalApi, answers: Sequence[Answered]) -> int:
        """Read both sides, print them, and say whether they are as they must be."""
        windows = standing(answer.delivery for answer in answers)
        items = compare(windows, BILLED, account.held())
        faults = account.faults_seen()
        parked = [
            ParkedRow(row["subject"], row["meter"], row["reason"], row["action"] or "")
            for row in service.call("GET", "/v1/windows?state=parked&limit=500")["data"]
        ]
        summary: dict[str, Any] = service.call("GET", "/v1/summary")
        wrong = differences(
            items=items,
            answers=answers,
            windows=windows,
            parked=[(row.subject, row.meter, row.reason) for row in parked],
            faults=faults,
            held_records=summary["records"]["held"],
        )
        self._console.print()
        demo_tables.print_answers(self._console, answers)
        demo_tables.print_faults(self._console, faults)
        demo_tables.print_comparison(self._console, items)
        demo_tables.print_parked(self._console, parked)
        demo_tables.print_verdict(self._console, wrong)
        return FAILED if wrong else 0

    def _stay(self, service: Started, sandbox: Started) -> None:
        """Go on until Ctrl-C. Raises ChildFailed where a child ends."""
        demo_tables.print_addresses(
            self._console, _addresses(service.api.url, sandbox.api.url, self._stage.secrets)
        )
        self._console.print("Ctrl-C ends it all, and leaves nothing behind.")
        try:
            while True:
                for started in (service, sandbox):
                    started.child.require_running()
                time.sleep(_POLL)
        except KeyboardInterrupt:
            self._console.print("Stopping.")


def _addresses(service: str, sandbox: str, secrets: Secrets) -> dict[str, str]:
    command = Path(sys.argv[0]).name if shutil.which("meterbridge") else sys.argv[0]
    return {
        "API documentation": f"{service}/docs",
        "Summary": f"curl -s -H 'Authorization: Bearer {secrets.admin}' {service}/v1/summary",
        "Readiness": f"{service}/readyz",
        "A webhook of your own": f"{command} send --subject acme --meter api_calls --value 7 "
        f"--url {service}{_WEBHOOKS} --secret {secrets.webhook}",
        "What Stripe holds": f"curl -s {sandbox}/_sandbox/totals",
        "The sandbox's control API (clock, faults, ledger)": f"{sandbox}/_sandbox/openapi.json",
    }
