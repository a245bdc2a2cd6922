"""`meterbridge doctor`: what is wrong with a configuration, and what to do about it."""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from rich.console import Console

from app.bootstrap import embedded_folder
from app.clock import SystemClock
from app.commands.doctor_findings import (
    Finding,
    Level,
    Tell,
    as_json,
    print_finding,
    print_outcome,
)
from app.commands.doctor_ledger import Ledger
from app.commands.doctor_openmeter import openmeter_finding
from app.commands.doctor_stripe import StripeExamination, key_finding
from app.config import Settings
from app.errors import SettingsError
from app.workshop import open_client, open_openmeter


async def run(load: Callable[[], Settings], *, json_wanted: bool, console: Console) -> int:
    """Examine and tell. Returns the exit code: 0 where no check found a problem."""
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not json_wanted:
            print_finding(console, finding)

    def load_quietly() -> Settings:
        settings = load()
        # What goes wrong is a finding: the program's own log would only stand between them.
        logging.getLogger("app").setLevel(logging.CRITICAL)
        return settings

    reads = await examine(load_quietly, tell)
    if json_wanted:
        text = as_json(findings, reads)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        print_outcome(console, findings, reads)
    return int(any(finding.level is Level.PROBLEM for finding in findings))


async def examine(load: Callable[[], Settings], tell: Tell) -> int:
    """Every check, told as soon as it is done. Returns how many reads were made at Stripe."""
    try:
        settings = load()
    except SettingsError as error:
        tell(
            Finding(
                "settings",
                Level.PROBLEM,
                error.detail,
                "Mend it in the environment or in .env; `meterbridge serve --help` lists them all.",
            )
        )
        return 0
    for finding in settings_findings(settings):
        tell(finding)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        ledger = Ledger(settings, stack, tell)
        engine = await ledger.reach(clock.now())
        mappings = None
        if engine is not None:
            await ledger.waiting(engine)
            mappings = await ledger.mappings(engine)
        openmeter = open_openmeter(settings)
        if openmeter is not None:
            await stack.enter_async_context(openmeter)
            mapped = mappings.meters if mappings is not None else ()
            tell(await openmeter_finding(openmeter, mapped, clock.now()))
        if settings.stripe_api_key is None:
            return 0
        client = await stack.enter_async_context(open_client(settings))
        stripe = StripeExamination(client, clock, tell)
        if await stripe.access(settings.stripe_account) and mappings is not None:
            await stripe.subscriptions(mappings)
        return stripe.reads


def database_finding(settings: Settings) -> Finding:
    """Which database is used: one that nobody chose is how usage ends up where nobody looks."""
    if settings.database_url is not None:
        return Finding("database_url", Level.OK, "set")
    try:
        used = f"the embedded PostgreSQL in {embedded_folder(settings)} is used"
    except SettingsError as error:  # a user without a home
        used = error.detail
    action = "Set DATABASE_URL for production: the embedded one is for trials on one machine."
    if "database_url" in settings.model_fields_set:
        # Whoever writes the name means a database: a secret with a wrong key gives nothing.
        return Finding("database_url", Level.PROBLEM, f"DATABASE_URL is empty: {used}", action)
    return Finding("database_url", Level.WARNING, f"DATABASE_URL is not set: {used}", action)


def settings_findings(settings: Settings) -> list[Finding]:
    """What the settings say by themselves."""
    found = [Finding("settings", Level.OK, "complete and well-formed")]
    found.append(database_finding(settings))
    secrets = len(settings.openmeter_webhook_secrets)
    if secrets:
        found.append(Finding("webhook_secrets", Level.OK, f"{secrets}, decodable"))
    else:
        found.append(
            Finding(
                "webhook_secrets",
                Level.PROBLEM,
                "OPENMETER_WEBHOOK_SECRETS is not set: every webhook is answered 503",
                "Set it to the signing secret of the endpoint, whsec_….",
            )
        )
    tokens = len(settings.admin_tokens)
    if tokens:
        found.append(Finding("admin_tokens", Level.OK, f"{tokens}"))
    else:
        found.append(
            Finding(
                "admin_tokens",
                Level.WARNING,
                "ADMIN_TOKENS is not set: /v1 (summary, mappings, releases) answers 503",
                "Set it to a random text of 16 characters or more.",
            )
        )
    found.append(key_finding(settings))
    found.append(Finding("stripe_pace", Level.OK, pace_in_words(settings)))
    found.append(Finding("retention", Level.OK, retention_in_words(settings)))
    return found


def pace_in_words(settings: Settings) -> str:
    """How fast usage records are sent."""
    first = min(settings.stripe_rate_limit, settings.highest_rate)
    said = f"{first:g} usage records a second, of all processes together"
    if settings.highest_rate > first:
        said += f"; rises to {settings.highest_rate:g} while Stripe takes them"
    return said


def retention_in_words(settings: Settings) -> str:
    """How long what is kept for."""

    def days(number: int) -> str:
        return f"{number} days" if number else "for ever"

    return (
        f"usage is kept {days(settings.retention_days)} after its billing period, raw bodies and "
        f"attempts {days(settings.raw_retention_days)}"
    )
