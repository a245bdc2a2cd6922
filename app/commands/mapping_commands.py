"""The commands under `meterbridge mappings`."""

from pathlib import Path
from typing import Annotated

import typer

from app.clock import SystemClock
from app.commands.starting import begin, console, open_engine, run_async

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
) -> None:
    """Make the mappings of what FILE names equal to it. Idempotent, all or nothing."""
    from app.commands.mapping_tables import print_changes, print_notes
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
                return await repository.preview(wanted)
            return await repository.replace(wanted, now=SystemClock().now())

    applied = run_async(go)
    print_changes(console, list(changes(applied.before, wanted)), dry_run=dry_run)
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
