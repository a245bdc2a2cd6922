"""One-line conversations with the database, through the URL the application would use."""

import asyncio

import asyncpg
from sqlalchemy.engine import make_url


async def connect(url: str, **changed: str) -> asyncpg.Connection:
    """A connection made from the arguments SQLAlchemy derives from the URL."""
    _, arguments = make_url(url).get_dialect()().create_connect_args(make_url(url))
    return await asyncpg.connect(**{**arguments, **changed})


async def ask(url: str, sql: str, *arguments: object) -> object:
    """The first value of the first row."""
    connection = await connect(url)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


def value(url: str, sql: str, *arguments: object) -> object:
    """The same outside of an event loop."""
    return asyncio.run(ask(url, sql, *arguments))


def remember(url: str, word: str) -> None:
    """Commit a word, the only one."""
    value(url, "drop table if exists words")
    value(url, "create table words (word text)")
    value(url, "insert into words values ($1)", word)


def remembered(url: str) -> object:
    return value(url, "select word from words")
