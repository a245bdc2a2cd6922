"""Follows a list of Stripe's to its end."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from app.stripe_client.encoding import FormValue, encode_form
from app.stripe_client.errors import MalformedAnswer
from app.stripe_client.members import Members

PAGE = 100  # the most that Stripe puts on one page; its default is 10


class Listed(Protocol):
    """Something that can be a cursor."""

    @property
    def id(self) -> str:
        """The id that the next page starts after."""
        ...


T = TypeVar("T", bound=Listed)


async def all_pages(
    get: Callable[[str, str], Awaitable[Members]],
    path: str,
    query: Mapping[str, FormValue],
    *,
    read: Callable[[Members], T],
    most: int,
    seen: Sequence[str] = (),
) -> tuple[T, ...]:
    """Everything the list at `path` holds after the ids in `seen`, page by page.

    A list that repeats an id, promises more on an empty page or is longer than `most` raises
    `MalformedAnswer`: it would go round for ever.
    """
    found: list[T] = []
    known = set(seen)
    last = seen[-1] if seen else None
    while True:
        cursor = {"starting_after": last} if last else {}
        body = await get(path, encode_form({**query, "limit": PAGE, **cursor}))
        body.expect("object", "list")
        page = [read(listed) for listed in body.each("data")]
        found += page
        known.update(listed.id for listed in page)
        if len(known) != len(seen) + len(found):
            raise MalformedAnswer(f"a page of {path} repeats an id", meta=body.meta)
        has_more = body.boolean("has_more")
        if has_more and not page:
            raise MalformedAnswer(f"an empty page of {path} promises more", meta=body.meta)
        if len(known) + has_more > most:
            raise MalformedAnswer(f"{path} lists more than {most}", meta=body.meta)
        if not has_more:
            return tuple(found)
        last = page[-1].id
