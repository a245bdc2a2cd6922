"""`meterbridge mappings discover`: from the settings to what was found, told and applied."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import SystemClock
from app.commands.discovering import Paces, Reader, Tell, apply
from app.commands.discovery_output import Outcome, as_json, mapping_file, print_outcome
from app.commands.starting import open_engine
from app.config import Settings
from app.errors import MeterbridgeError, SettingsError
from app.mapping.discovery import Discovery, discover
from app.mapping.evidence import Asked, Reading
from app.mapping.file import Mappings
from app.mapping.repository import MappingRepository
from app.mapping.unmapped import unmapped_subjects
from app.openmeter.api import OpenMeterClient
from app.workshop import open_client, open_openmeter


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants. `most`: of each list; `file`: where the mapping file goes."""

    asked: Asked
    applying: bool
    json: bool
    file: Path | None
    most: int


async def run(settings: Settings, wish: Wish, *, console: Console) -> int:
    """Discover and tell. Returns the exit code: 1 where something is in doubt, else 0."""
    _free(wish.file)
    openmeter = None if wish.asked is Asked.STRIPE else open_openmeter(settings)
    if wish.asked is Asked.OPENMETER and openmeter is None:
        raise SettingsError("OPENMETER_API_URL: is not set; --source openmeter needs it")
    async with AsyncExitStack() as stack:
        if openmeter is not None:
            await stack.enter_async_context(openmeter)
        client = await stack.enter_async_context(open_client(settings))
        engine = await stack.enter_async_context(open_engine(settings))
        repository = MappingRepository(engine)
        now = SystemClock().now()
        with _progress() as tell:
            reader = Reader(
                client, openmeter, Paces.of_rate(settings.stripe_rate_limit), wish.most, now, tell
            )
            reading = await _read(reader, engine, wish)
        standing = await repository.everything()
        found = _found(reading, standing, now)
        _write(wish.file, found)
        applied: int | None = None
        overtaken: tuple[str, ...] = ()
        if wish.applying:
            overtaken = await apply(repository, found.proposals, SystemClock().now())
            applied = len(found.proposals) - len(overtaken)
    outcome = Outcome(found, applied, overtaken, tuple(_notes(wish, openmeter, standing)))
    if wish.json:
        console.print(as_json(outcome), markup=False, highlight=False, soft_wrap=True)
    else:
        shown = wish.file is None and not wish.applying
        print_outcome(console, outcome, with_file=shown)
    return int(outcome.in_doubt)


async def _read(reader: Reader, engine: AsyncEngine, wish: Wish) -> Reading:
    subjects: list[str] = []
    if reader.openmeter is not None:
        subjects = await unmapped_subjects(engine, most=wish.most + 1)
        if len(subjects) > wish.most:
            raise MeterbridgeError(
                f"Over {wish.most} subjects have usage and no mapping: raise --limit "
                "(each costs two or three calls to OpenMeter)"
            )
    return await reader.read(metadata=wish.asked is not Asked.OPENMETER, subjects=subjects)


def _found(reading: Reading, standing: Mappings, now: datetime) -> Discovery:
    prices = [meter.price for split in standing.meters.values() for meter in split]
    return discover(reading, prices=prices, existing=standing.subjects, now=now)


def _notes(wish: Wish, openmeter: OpenMeterClient | None, standing: Mappings) -> Iterator[str]:
    if wish.asked is Asked.ALL and openmeter is None:
        yield "OPENMETER_API_URL is not set: only Stripe was asked."
    if not standing.meters:
        yield (
            "No meter is mapped yet, so no customer's subscription has a mapped price: map the "
            "meters first."
        )


def _free(file: Path | None) -> None:
    """Refuse a file that exists: it could be the operator's own mapping file."""
    if file is not None and file.exists():
        raise SettingsError(f"--file: {file} exists already")


def _write(file: Path | None, found: Discovery) -> None:
    if file is None:
        return
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(mapping_file(found.proposals))
    except OSError as error:
        said = (error.strerror or type(error).__name__).lower()
        raise SettingsError(f"--file: cannot write {file}: {said}") from None


@contextmanager
def _progress() -> Iterator[Tell]:
    """Progress at a terminal, beside what is printed: long lists take minutes."""
    with Progress(
        TextColumn("reading {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)

        def tell(what: str, done: int, total: int | None) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield tell
