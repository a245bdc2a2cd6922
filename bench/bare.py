"""Starting the bare loop of the HTTP client, and what it has to say."""

from bench.account import item_of
from bench.posting import Posted
from bench.processes import Process, module
from bench.stage import FigureFailed, Stage
from bench.traffic import began


def bare_posts(stage: Stage, *, each: int, concurrency: int) -> Posted:
    """POST `each` records of every subscription of the stage, `concurrency` at a time."""
    subscriptions = sorted(set(stage.account.subscriptions.values()))
    path = stage.folder / "items.txt"
    path.write_text("\n".join(item_of(name) for name in subscriptions))
    command = module(
        "bench.posting",
        stage.stripe_url,
        stage.stripe_key,
        str(path),
        str(concurrency),
        str(each),
        str(int(began().timestamp())),
    )
    with Process("posting", command, folder=stage.folder, talks=True) as process:
        posted = Posted(**process.hear())
    if posted.calls != len(subscriptions) * each:
        raise FigureFailed(f"the bare loop made {posted.calls} calls")
    return posted
