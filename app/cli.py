"""The `meterbridge` command."""

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, NoReturn

import typer

from app import __version__
from app.commands.mapping_commands import mappings_app
from app.commands.starting import begin, console, open_engine, run_async
from app.config import Settings, load_settings
from app.errors import DatabaseUnavailable, MeterbridgeError, SettingsError


def _settings_help() -> str:
    """Every setting with its meaning: the same table as README's."""
    lines = ["Settings, from the environment or .env:", ""]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default in (None, (), "") else f" (default {default})"
        lines += [f"{name.upper()}{shown}: {field.description}", ""]
    return "\n".join(lines)


_ABOUT = "OpenMeter usage webhooks -> Stripe's legacy usage records: nothing lost, nothing doubled."

app = typer.Typer(
    help=_ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(mappings_app, name="mappings")


def main() -> None:
    """Entry point. An error of ours is one line and exit code 2, never a stack trace."""
    try:
        app()
    except MeterbridgeError as error:
        _fail(error)


def _fail(error: MeterbridgeError) -> NoReturn:
    cause = getattr(error.__cause__, "orig", error.__cause__)
    said = f" ({str(cause).splitlines()[0]})" if cause and str(cause) else ""
    if isinstance(error, DatabaseUnavailable):
        from app.database_login import next_step

        said += f". {next_step(error)}"
    print(f"meterbridge: {error.detail}{said}", file=sys.stderr)  # noqa: T201 - the command speaks
    for fault in error.faults:
        print(f"  {fault.path}: {fault.message}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from None


@app.callback(invoke_without_command=True, help=_ABOUT)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.print(context.get_help())


@app.command(epilog=_settings_help())
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Also book and send in this process.")
    ] = True,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Bring an external database's schema to head first.")
    ] = False,
) -> None:
    """Receive webhooks, and (unless --no-worker) book and send."""
    from app.commands.serving import serve as run

    settings = begin()
    run_async(
        lambda: run(settings, host=host, port=port, with_worker=worker, migrate_first=migrate)
    )


@app.command(epilog=_settings_help())
def worker() -> None:
    """Book and send, beside `serve --no-worker`; as many as wanted on one database."""
    from app.worker import run_worker

    settings = begin()
    run_async(lambda: run_worker(settings))


@app.command()
def migrate() -> None:
    """Bring the database's schema to what this version needs."""
    from app.bootstrap import database
    from app.db import SchemaState, head_revision
    from app.migrating import migrate as run

    settings = begin()

    async def go() -> SchemaState:
        async with database(settings) as url:
            return await run(url)

    if run_async(go) is SchemaState.NEWER:
        console.print(f"The schema is newer than this version's {head_revision()}: it is kept.")
    else:
        console.print(f"The schema is at {head_revision()}.")


@app.command()
def drain(
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.", min=0)] = 60,
) -> None:
    """Wait until every delivery is booked and every record sent; exit 1 with what is left."""
    from app.commands.draining import describe
    from app.commands.draining import drain as run
    from app.ledger.status import Backlog

    settings = begin(log_format="text")

    async def go() -> Backlog:
        async with open_engine(settings) as engine:
            return await run(engine, seconds=timeout, console=console)

    left = run_async(go)
    if left.drained:
        console.print("Drained: nothing is left to do.")
        if left.set_aside:
            console.print(
                f"{left.set_aside} deliveries, windows or records wait for somebody "
                "(failed, parked or held): see `meterbridge doctor`."
            )
        return
    console.print(f"Left after {timeout:g} s: {describe(left)}.")
    console.print(
        "Is a worker running, and is the line open? See /readyz, or `meterbridge doctor`."
    )
    raise typer.Exit(1)


@app.command()
def prune(
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what would be deleted; what goes with it is not counted."
        ),
    ] = False,
) -> None:
    """Delete what is older than RETENTION_DAYS and RAW_RETENTION_DAYS; a worker does so hourly.

    Exit code 1 says that nothing may be deleted yet, and why.
    """
    from app.clock import SystemClock
    from app.commands.pruning import Pruning, describe
    from app.commands.pruning import prune as run

    settings = begin(log_format="text")

    async def go() -> Pruning:
        async with open_engine(settings) as engine:
            return await run(engine, SystemClock(), settings, dry_run=dry_run)

    pruning = run_async(go)
    for line in describe(pruning):
        console.print(line)
    if pruning.blocked:
        raise typer.Exit(1)


@app.command()
def send(
    subject: Annotated[str, typer.Option(help="Whose usage.")],
    meter: Annotated[str, typer.Option(help="The meter's slug.")],
    value: Annotated[str, typer.Option(help="The usage, as digits: 500 or 0.25.")],
    url: Annotated[
        str, typer.Option(help="The endpoint.")
    ] = "http://127.0.0.1:8000/webhooks/openmeter",
    start: Annotated[
        datetime | None,
        typer.Option("--from", help="Window start, UTC. Default: the last full hour."),
    ] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="Window end, UTC.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="A group, name=value; repeat for more.")
    ] = None,
    aggregation: Annotated[str, typer.Option(help="The meter's aggregation.")] = "SUM",
    message_id: Annotated[
        str | None, typer.Option(help="The svix-id; the same again is a duplicate. Default: new.")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="OPENMETER_WEBHOOK_SECRETS",
            show_envvar=True,
            help="Signing secret whsec_…; of several the first is used.",
        ),
    ] = None,
) -> None:
    """Sign a test webhook as OpenMeter would, and post it to any endpoint."""
    from app.commands import outgoing

    settings = load_settings()
    held = secret.split(",")[0].strip() if secret else None
    if held is None and settings.openmeter_webhook_secrets:
        held = settings.openmeter_webhook_secrets[0].get_secret_value()
    if not held:
        raise typer.BadParameter("is needed: set OPENMETER_WEBHOOK_SECRETS, or give --secret")
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    window_start = start.replace(tzinfo=UTC) if start else hour - timedelta(hours=1)
    window_end = end.replace(tzinfo=UTC) if end else window_start + timedelta(hours=1)
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise typer.BadParameter("takes digits: 500 or 0.25", param_hint="--value") from None
    try:
        groups = dict(pair.split("=", 1) for pair in group or [])
    except ValueError:
        raise typer.BadParameter("takes name=value", param_hint="--group") from None
    body = outgoing.report_body(
        meter=meter,
        subject=subject,
        windows=[outgoing.OutgoingWindow(amount, window_start, window_end, groups)],
        aggregation=aggregation,
    )
    svix_id = message_id or outgoing.message_id()
    try:
        status, answer = outgoing.post(url, body, outgoing.signed_headers(held, svix_id, body))
    except (OSError, ValueError) as error:
        console.print(f"Nobody answers at {url}: {error}")
        raise typer.Exit(1) from None
    console.print(f"{svix_id}  {window_start:%Y-%m-%d %H:%M} to {window_end:%Y-%m-%d %H:%M} UTC")
    console.print(f"{status} {answer}", markup=False)
    if not 200 <= status < 300:
        raise typer.Exit(1)


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 12111,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="A key it accepts; repeat for more. Default: sk_test_sandbox."),
    ] = None,
) -> None:
    """Run the stateful stand-in for Stripe's API, for trials without an account."""
    from app.sandbox.server import serve as run

    try:
        run(host, port, frozenset(api_key or ["sk_test_sandbox"]))
    except OSError as error:
        said = (error.strerror or type(error).__name__).lower()
        raise SettingsError(f"--host, --port: cannot listen on {host}:{port}: {said}") from None


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit when drained: 0 only if both sides are equal.")
    ] = False,
) -> None:
    """See the main job running on real input: service, sandbox, signed webhooks, and the proof."""
    from app.commands.demo import run as run_demo

    raise typer.Exit(run_demo(once=once, console=console))


@app.command()
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object in place of lines.")
    ] = False,
) -> None:
    """Say what is wrong with settings, database, Stripe key and mappings, and what to do.

    Exit code 1 says that there is a problem; with warnings alone, as where usage is parked, it is
    0. --json has each check with its level.
    """
    from functools import partial

    from app.commands.doctor import run as run_doctor

    load = partial(begin, log_format="text")
    raise typer.Exit(run_async(lambda: run_doctor(load, json_wanted=as_json, console=console)))


@app.command()
def explain(
    item: Annotated[str | None, typer.Option(help="A subscription item, si_….")] = None,
    period: Annotated[
        str | None,
        typer.Option(help="A date, time or Unix second inside its billing period."),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Or a subject: whose usage.")] = None,
    day: Annotated[
        str | None, typer.Option(help="The day (UTC) on which its windows end, with --subject.")
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(help="The next records: what the page before says.", min=0, max=2**53),
    ] = None,
    stripe: Annotated[
        bool, typer.Option("--stripe/--no-stripe", help="Ask Stripe for its own total, too.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object in place of a page.")
    ] = False,
) -> None:
    """Say what stands behind an invoice line, down to the webhooks and Stripe's request ids."""
    from app.commands.explaining import OPTIONS, run, tell
    from app.ledger.selection import select

    settings = begin(log_format="text")
    selection = select(
        item=item, period=period, subject=subject, at=day, after=after, names=OPTIONS
    )
    tell(
        run_async(lambda: run(settings, selection, ask_stripe=stripe)),
        json_wanted=as_json,
        console=console,
    )
