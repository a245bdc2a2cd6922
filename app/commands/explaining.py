"""`meterbridge explain`: what stands behind an invoice line, for people or as JSON."""

from contextlib import AsyncExitStack
from typing import Final

from rich.console import Console

from app.clock import SystemClock
from app.commands.explaining_page import print_explanation
from app.commands.starting import open_engine
from app.config import Settings
from app.ledger.explaining import ExplainingRepository
from app.ledger.explanation import Explanation, explain
from app.ledger.selection import Selection
from app.routers.explain_views import ExplanationView
from app.workshop import open_client

OPTIONS: Final = {
    "item": "--item",
    "period": "--period",
    "subject": "--subject",
    "at": "--day",
    "after": "--after",
}


async def run(settings: Settings, selection: Selection, *, ask_stripe: bool) -> Explanation:
    """Explain from the database and, where there is a key, with a read from Stripe."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(settings))
        client = None
        if ask_stripe and settings.stripe_api_key is not None:
            client = await stack.enter_async_context(open_client(settings))
        return await explain(
            ExplainingRepository(engine),
            client,
            selection,
            now=SystemClock().now(),
            ask_stripe=ask_stripe,
        )


def tell(explanation: Explanation, *, json_wanted: bool, console: Console) -> None:
    """Print it: the same JSON as the API's, or a page."""
    if not json_wanted:
        print_explanation(console, explanation)
        return
    text = ExplanationView.of(explanation).model_dump_json(indent=2)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
