"""What no log line may hold."""

import structlog

from app.observability.logs import hide_values

LOGGER = structlog.get_logger()


def test_rows_and_parameters_of_the_databases_errors_are_cut_out() -> None:
    event = {
        "exception": "Traceback ...\n"
        "asyncpg.CheckViolationError: new row violates check constraint\n"
        "DETAIL:  Failing row contains (1, acme-secret).\n"
        "HINT: none\n"
        "asyncpg.DataError: invalid input for query argument $2: 'acme-secret' (a str is wanted)",
        "event": "DETAIL: acme-secret",
        "deliveries": 3,
    }
    found = hide_values(LOGGER, "error", event)
    assert "acme-secret" not in str(found)
    assert found["deliveries"] == 3
    for kept in ("violates check constraint", "HINT: none", "query argument $2:"):
        assert kept in found["exception"]
