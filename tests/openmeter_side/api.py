"""OpenMeter's HTTP API on the state of the stand-in: a path and parameters in, an answer out."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote

from tests.openmeter_side.answers import Answer, json_answer, problem, unauthorized
from tests.openmeter_side.events import Meter
from tests.openmeter_side.querying import WINDOWS, Question
from tests.openmeter_side.side import OpenMeterSide

Pairs = Sequence[tuple[str, str]]


class _Refusal(Exception):
    """A request that is answered with a problem document."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.answer = problem(status, title, detail)


def respond(side: OpenMeterSide, path: str, query: str, headers: Mapping[str, str]) -> Answer:
    """The answer to a GET. `path` is percent-encoded, names of headers in small letters."""
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    side.requests.append((path, pairs))
    if side.api_key is not None and headers.get("authorization") != f"Bearer {side.api_key}":
        return unauthorized()
    parts = [unquote(part) for part in path.strip("/").split("/")]
    route = _ROUTES.get(_route(parts))
    if route is None:
        return problem(404, "Not Found", "no such route")
    try:
        return route(side, parts, pairs)
    except _Refusal as refusal:
        return refusal.answer


def _route(parts: Sequence[str]) -> tuple[str, ...]:
    """A path with what varies in it taken out."""
    return tuple("*" if place == 3 else part for place, part in enumerate(parts))


def _query(side: OpenMeterSide, parts: Sequence[str], pairs: Pairs) -> Answer:
    meter = _meter(side, parts[3])
    subjects = tuple(value for name, value in pairs if name == "subject")
    group_by = tuple(value for name, value in pairs if name == "groupBy")
    filters = {
        name.removeprefix("filterGroupBy[").removesuffix("]"): value
        for name, value in pairs
        if name.startswith("filterGroupBy[") and name.endswith("]")
    }
    size = _one(pairs, "windowSize")
    from_, to = _bounds(pairs)
    if len(subjects) > 1 and "subject" not in group_by:
        raise _bad("multiple subject filters are only allowed with subject group by")
    if from_ >= to:
        raise _bad("from must be before to")
    for name in (*group_by, *filters):
        if name not in (*meter.group_by, "subject"):
            raise _bad(f"invalid group by: {name}")
    if size is not None and size not in WINDOWS:
        raise _bad("invalid window size")
    if subjects and "subject" not in group_by:
        group_by = ("subject", *group_by)
    asked = Question(from_, to, subjects, group_by, filters, size)
    rows = side.query(meter.slug, asked)
    return json_answer({"from": _one(pairs, "from"), "data": [row.as_json() for row in rows]})


def _subjects(side: OpenMeterSide, parts: Sequence[str], pairs: Pairs) -> Answer:
    return json_answer(side.subjects(_meter(side, parts[3]).slug, *_bounds(pairs)))


def _customers(side: OpenMeterSide, _: Sequence[str], pairs: Pairs) -> Answer:
    filters = {name: value for name, value in pairs if name in ("subject", "key")}
    found = [c.as_json() for c in side.customers.values() if c.matches(filters)]
    if side.plain_lists:
        return json_answer(found)
    number = int(_one(pairs, "page") or 1)
    size = min(int(_one(pairs, "pageSize") or 100), side.page_limit)
    return json_answer(
        {
            "page": number,
            "pageSize": size,
            "totalCount": len(found),
            "items": found[(number - 1) * size : number * size],
        }
    )


def _stripe(side: OpenMeterSide, parts: Sequence[str], _: Pairs) -> Answer:
    wanted = parts[3]
    found = next((c for c in side.customers.values() if wanted in (c.id, c.key)), None)
    if found is None:
        raise _Refusal(404, "Not Found", f"customer not found: {wanted}")
    if found.stripe is None:
        raise _Refusal(412, "Precondition Failed", "customer has no data for stripe")
    return json_answer({"type": "stripe", "stripeCustomerId": found.stripe})


_ROUTES: Mapping[tuple[str, ...], Callable[[OpenMeterSide, Sequence[str], Pairs], Answer]] = {
    ("api", "v1", "meters", "*", "query"): _query,
    ("api", "v1", "meters", "*", "subjects"): _subjects,
    ("api", "v1", "customers"): _customers,
    ("api", "v1", "customers", "*", "stripe"): _stripe,
}


def _meter(side: OpenMeterSide, slug: str) -> Meter:
    if slug not in side.meters:
        raise _Refusal(404, "Not Found", f"meter not found: {slug}")
    return side.meters[slug]


def _bounds(pairs: Pairs) -> tuple[datetime, datetime]:
    try:
        from_, to = (
            datetime.fromisoformat(_one(pairs, name) or "").astimezone(UTC)
            for name in ("from", "to")
        )
    except ValueError:
        raise _bad("from and to must be times") from None
    return from_, to


def _one(pairs: Pairs, wanted: str) -> str | None:
    return next((value for name, value in pairs if name == wanted), None)


def _bad(detail: str) -> _Refusal:
    return _Refusal(400, "Bad Request", detail)
