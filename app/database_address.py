"""The address of the database, as the settings have it, and as driver and engine take it."""

from enum import StrEnum
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from app.errors import SettingsError

# What an address may say beyond user, host, port and name. asyncpg takes each as an argument, and
# an unknown one as a defect of the program.
_QUERY = frozenset(
    {"host", "port", "ssl", "sslmode", "passfile", "target_session_attrs", "direct_tls"}
    | {"prepared_statement_cache_size", "statement_cache_size", "pooler"}
)


class Pooler(StrEnum):
    """How a pooler shares PostgreSQL's sessions among its clients: PgBouncer's `pool_mode`."""

    SESSION = "session"
    TRANSACTION = "transaction"


def database_url(raw: str) -> URL:
    """`raw` as a URL for asyncpg; `postgres://` and `postgresql://` are accepted.

    Raises SettingsError, which never shows the address: it may hold a password.
    """
    try:
        url = make_url(raw)
    except (SQLAlchemyError, ValueError):
        raise SettingsError(
            "DATABASE_URL: is not a database address (special characters in the password are "
            "written %XX)"
        ) from None
    if set(url.query) - _QUERY:
        known = ", ".join(sorted(_QUERY))
        raise SettingsError(f"DATABASE_URL: has a parameter that is none of {known}; leave it out")
    for name in ("prepared_statement_cache_size", "statement_cache_size"):
        if not str(url.query.get(name, "0")).isdecimal():
            raise SettingsError(f"DATABASE_URL: {name} must be a number")
    if url.query.get("pooler", Pooler.SESSION) not in tuple(Pooler):
        raise SettingsError(f"DATABASE_URL: pooler must be {' or '.join(Pooler)}")
    if url.query.get("pooler") == Pooler.SESSION and _keeps_no_statement(url):
        raise SettingsError(
            "DATABASE_URL: pooler=session and a cache of 0 prepared statements, which is for "
            "pooler=transaction, exclude each other"
        )
    if "sslmode" in url.query:  # libpq's word for what asyncpg calls ssl
        url = url.update_query_dict({"ssl": url.query["sslmode"]}).difference_update_query(
            ["sslmode"]
        )
    return url.set(drivername="postgresql+asyncpg")


# The program has two hundred different statements; one that is not kept is prepared anew each time.
_STATEMENTS_KEPT = 500


def pooler_of(url: URL) -> Pooler | None:
    """The pooler that an address is said to lead to; None for PostgreSQL itself.

    To keep no prepared statements is the older way to say `pooler=transaction`.
    """
    if _keeps_no_statement(url):
        return Pooler.TRANSACTION
    said = url.query.get("pooler")
    return Pooler(str(said)) if said else None


def _keeps_no_statement(url: URL) -> bool:
    sizes = [url.query.get("prepared_statement_cache_size"), url.query.get("statement_cache_size")]
    return any(size is not None and not str(size).strip("0") for size in sizes)


def shares_sessions(url: URL) -> bool:
    """Whether the address is that of a pooler by transaction: no two of them share a session."""
    return pooler_of(url) is Pooler.TRANSACTION


def driver_arguments(url: URL) -> dict[str, Any]:
    """An address as `asyncpg.connect` takes it, but for waiting times and settings."""
    given = dict(url.get_dialect()().create_connect_args(url)[1])
    for ours in ("prepared_statement_cache_size", "pooler"):
        given.pop(ours, None)
    if "statement_cache_size" in given:
        given["statement_cache_size"] = int(given["statement_cache_size"])
    if "direct_tls" in given:
        given["direct_tls"] = given["direct_tls"].lower() in ("1", "true", "yes", "on")
    return given


def engine_arguments(url: URL) -> dict[str, Any]:
    """The same for SQLAlchemy and `app.database_login.log_in`: how many prepared statements a
    connection keeps, and their names.

    Behind a pooler by transaction (`?pooler=transaction`) none is kept. Each is the
    unnamed one then: names of two clients would collide in the server's session that they share,
    and names that never do would pile up there, since what closes them meets another session.
    """
    given = driver_arguments(url) | {"pooler": pooler_of(url)}
    if shares_sessions(url):
        return given | {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
        }
    kept = url.query.get("prepared_statement_cache_size", str(_STATEMENTS_KEPT))
    return given | {"prepared_statement_cache_size": int(str(kept))}
