"""The commands under `meterbridge mappings`."""

from pathlib import Path
from typing import Annotated

import typer

from app.clock import SystemClock
from app.commands.starting import begin, console, open_engine, run_async
from app.mapping.evidence import Asked

mappings_app = typer.Typer(
    help="Which subject pays by which subscription, which meter by which price.",
    no_args_is_help=True,
)


@mappings_app.command("apply")
def mappings_apply(
    file: Annotated[
        Path, typer.Argument(help="A mapping file (YAML).", exists=True, dir_okay=False)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also where usage moves that is billed for good: it is billed at its new place, "
            "and what it leaves behind is held, to be credited by hand.",
        ),
    ] = False,
) -> None:
    """Make the mappings of what FILE names equal to it. Idempotent, all or nothing.

    Usage that is booked, and has another place by the new mappings, moves there: see --dry-run.
    """
    from app.commands.mapping_tables import print_changes, print_moves, print_notes
    from app.errors import InvalidMapping
    from app.mapping.file import from_yaml, to_mappings
    from app.mapping.fitting import whole_periods
    from app.mapping.plan import changes
    from app.mapping.repository import AppliedMappings, MappingRepository

    settings = begin(log_format="text")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidMapping(f"{file} is not UTF-8") from None
    wanted = to_mappings(from_yaml(text))

    async def go() -> AppliedMappings:
        async with open_engine(settings) as engine:
            repository = MappingRepository(engine)
            if dry_run:
                return await repository.preview(wanted, now=SystemClock().now())
            return await repository.replace(wanted, now=SystemClock().now(), force=force)

    applied = run_async(go)
    print_changes(console, list(changes(applied.before, wanted)), dry_run=dry_run)
    print_moves(console, applied.moves, dry_run=dry_run, force=force)
    unasked = whole_periods(wanted, openmeter_api=settings.openmeter_api_url is not None)
    print_notes(console, [*applied.notes, *unasked])


@mappings_app.command("list")
def mappings_list() -> None:
    """Print all mappings."""
    from app.commands.mapping_tables import print_mappings
    from app.mapping.file import Mappings
    from app.mapping.repository import MappingRepository

    settings = begin(log_format="text")

    async def go() -> Mappings:
        async with open_engine(settings) as engine:
            return await MappingRepository(engine).everything()

    print_mappings(console, run_async(go))


@mappings_app.command("discover")
def mappings_discover(
    apply: Annotated[
        bool, typer.Option("--apply", help="Map what is proposed; nothing that stands is changed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object in place of tables.")
    ] = False,
    source: Annotated[
        Asked,
        typer.Option(
            help="Whom to ask: the metadata at Stripe, OpenMeter's customers (of subjects that "
            "have usage, but no mapping), or all. OpenMeter needs OPENMETER_API_URL."
        ),
    ] = Asked.ALL,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-o", help="Write the proposals as a mapping file; it must not exist yet."
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            help="The most subscriptions, customers and subjects to read; 100 cost one read at "
            "Stripe, where reads are rationed.",
            min=1,
            max=1_000_000,
        ),
    ] = 10_000,
) -> None:
    """Find out which subscription pays for which subject, and propose it; nothing is guessed.

    A subject may stand under the metadata key openmeter_subject of its subscription, or of a
    customer with one active subscription that has a mapped price; several are separated by commas
    or spaces. OpenMeter's customers lead there by their subjects and their customer at Stripe.

    Exit code 1 says that something is in doubt: it is told with what to do, and not proposed.
    """
    from app.commands.discovery import Wish, run

    settings = begin(log_format="text")
    wish = Wish(source, apply, as_json, file, limit)
    raise typer.Exit(run_async(lambda: run(settings, wish, console=console)))
