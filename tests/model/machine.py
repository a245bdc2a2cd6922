"""The steps that may follow one another in any order, and what must be true after each drain."""

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy.engine import URL

from app.errors import MovesBilledUsage
from app.sandbox.server import create_sandbox
from tests.model import ledger
from tests.model.billing import DAY, HOUR, ROUNDINGS, Billing, Rule, Subscription, Window
from tests.model.program import LONGEST_DRAIN, Program
from tests.model.stripe_side import FAULTS, GET, POST, PRICES, READ_FAULTS, StripeSide, item_of

MIDNIGHT: Final = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())
LENGTH: Final = 3 * DAY
# Hours of a period: its first ones, some that share a bucket of a day, and its last.
HOURS: Final = (-1, 0, 1, 2, 25, 26, 50, 70, 71)
SUBJECTS: Final = {"alice": "sub_1", "bob": "sub_1", "carol": "sub_2"}
SUBSCRIPTIONS: Final = ("sub_1", "sub_2")


@dataclass(frozen=True)
class Message:
    """A delivery: the values of some hours and groups of one subject and meter.

    `back`: of the current period (0) or the one before (1); `age`: how much older than the newest
    message, in messages (0: newer than all).
    """

    meter: str
    subject: str
    rows: tuple[tuple[int, str, str], ...]  # (hour, group, value)
    back: int
    age: int


@dataclass(frozen=True)
class Correction:
    """Other values for the windows of the message that was sent so many before the last one."""

    which: int
    values: tuple[str, ...]


values = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(["0", "0.5", "1.5", "2.25", "0.1", "0.30000000000000004", "1e-9", "0.333"]),
    st.sampled_from(["-1", "-0.5", "-3", "-7.25", "-20"]),
    st.sampled_from(["1000000000000", "123456789.75"]),
)
rows = st.lists(
    st.tuples(st.integers(0, len(HOURS) - 1), st.sampled_from(["", "x", "y"]), values),
    min_size=1,
    max_size=4,
    unique_by=lambda row: row[:2],
).map(tuple)
messages = st.builds(
    Message,
    st.sampled_from(["tokens", "tokens", "peak"]),
    st.sampled_from(sorted(SUBJECTS)),
    rows,
    st.sampled_from([0, 0, 1]),
    st.sampled_from([0, 0, 0, 2, 5]),
)
corrections = st.builds(
    Correction, st.integers(0, 12), st.lists(values, min_size=1, max_size=4).map(tuple)
)
scales = st.sampled_from([Fraction(1), Fraction(1, 3), Fraction(7), Fraction(1, 1000)])
record_pers = st.sampled_from(["window", "hour", "day", "period"])
roundings = st.sampled_from(ROUNDINGS)
faults = st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 3)), max_size=3)
news = st.lists(messages, max_size=2)
read_faults = st.lists(st.sampled_from(READ_FAULTS), max_size=1)


class Bench:
    """What all examples share: an event loop, a database, a sandbox."""

    def __init__(self, url: URL) -> None:
        self.runner = asyncio.Runner()
        self.stripe = StripeSide(create_sandbox())
        self.program = self.runner.run(self._open(url))
        self.steps = 0
        self.drains = 0
        self.examples = 0
        self.adopted = 0
        self.posts = 0
        self.seen: Counter[str] = Counter()  # items at the end of drains, by what they showed

    async def _open(self, url: URL) -> Program:
        return Program(url, self.stripe)

    def close(self) -> None:
        """End it all."""
        self.runner.run(self.program.aclose())
        self.runner.close()


class MeterbridgeMachine(RuleBasedStateMachine):
    """The program and the model side by side."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.program = bench.program
        self.stripe = bench.stripe
        self.billing: Billing
        self.told: list[tuple[str, int, Message, int]] = []
        self.messages = 0
        bench.examples += 1

    @initialize(
        half=st.booleans(),
        apart=st.sampled_from([0, 30 * HOUR]),
        grace=st.sampled_from([0, 1_800]),
        max_age=st.sampled_from([10, HOUR, 30 * DAY]),
        hold=st.booleans(),
        scale=scales,
        peak=st.sampled_from([Fraction(1), Fraction(1, 3)]),
        record_per=record_pers,
        rounding=roundings,
        timestamp=st.sampled_from(["inside", "window_end"]),
    )
    def begin(
        self,
        half: bool,
        apart: int,
        grace: int,
        max_age: int,
        hold: bool,
        scale: Fraction,
        peak: Fraction,
        record_per: str,
        rounding: str,
        timestamp: str,
    ) -> None:
        """Two subscriptions, begun two periods ago, their second ones a while apart."""
        anchor = MIDNIGHT + (HOUR // 2 if half else 0)
        subscriptions = [
            Subscription("sub_1", anchor, LENGTH),
            Subscription("sub_2", anchor - apart, LENGTH),
        ]
        now = anchor + 2 * LENGTH + 5 * HOUR + 90
        self.billing = Billing(
            {subscription.name: subscription for subscription in subscriptions},
            {(name, price): item_of(name, price) for name in SUBSCRIPTIONS for price in PRICES},
            frozenset(item_of(name, "price_max") for name in SUBSCRIPTIONS),
            frozenset(item_of(name, "price_b") for name in SUBSCRIPTIONS if hold),
            grace,
        )
        late = "hold" if hold else "carry_forward"
        self.billing.rules = {
            ("tokens", ""): Rule("price_a", scale, record_per, rounding, timestamp),
            ("tokens", "x"): Rule("price_b", Fraction(1), "window", rounding, timestamp, late),
            ("peak", ""): Rule("price_max", peak, record_per, rounding, timestamp),
        }
        self.billing.spans = {subject: [(0, name)] for subject, name in SUBJECTS.items()}
        self.stripe.begin(subscriptions, now, grace=grace)
        self._run(self.program.begin(now, max_age=max_age))
        self._apply()
        self._look()

    @invariant()
    def count(self) -> None:
        """Another step was done."""
        self.bench.steps += 1

    @rule(message=messages)
    def deliver(self, message: Message) -> None:
        """A delivery; an older one than what is known, or a correction, as it happens."""
        self._deliver(message)

    @rule(
        batch=st.lists(messages, min_size=2, max_size=4), turned=st.randoms(use_true_random=False)
    )
    def deliver_out_of_order(self, batch: list[Message], turned: Any) -> None:
        """Messages in another order than that of their times."""
        prepared = [self._prepare(message) for message in batch]
        turned.shuffle(prepared)
        for entry in prepared:
            self._send(*entry)

    @precondition(lambda self: self.told)
    @rule(which=st.integers(0, 50))
    def redeliver(self, which: int) -> None:
        """The same message again."""
        self._send(*self.told[which % len(self.told)])

    @rule(correction=corrections)
    def correct(self, correction: Correction) -> None:
        """The windows of a message with other values."""
        self._correct(correction)

    def _correct(self, correction: Correction) -> None:
        if not self.told:
            return
        _, _, message, now = self.told[-1 - correction.which % len(self.told)]
        changes = correction.values
        new = tuple(
            (hour, group, changes[number % len(changes)])
            for number, (hour, group, _) in enumerate(message.rows)
        )
        self.messages += 1
        again = Message(message.meter, message.subject, new, message.back, 0)
        self._send(f"msg_{self.messages:06}", MIDNIGHT + 1_000 * self.messages, again, now)

    @rule()
    def drain(self) -> None:
        """Work until nothing is left to do; then compare."""
        self._drain([], [], 1, 1)

    @rule(
        news=news,
        injected=faults,
        reads=read_faults,
        workers=st.sampled_from([1, 1, 2]),
        in_flight=st.sampled_from([1, 1, 4]),
    )
    def drain_in_trouble(
        self,
        news: list[Message],
        injected: list[tuple[dict[str, Any], int]],
        reads: list[dict[str, Any]],
        workers: int,
        in_flight: int,
    ) -> None:
        """The same, whatever Stripe answers."""
        self._deliver(*news)
        self._drain(injected, reads, workers, in_flight)

    def _drain(
        self,
        injected: list[tuple[dict[str, Any], int]],
        reads: list[dict[str, Any]],
        workers: int,
        in_flight: int,
    ) -> None:
        self._make_room()
        for fault, skip in injected:
            self.stripe.inject(fault, skip=skip, operation=POST)
            self.billing.unheard |= fault["kind"] == "stored_error"
        for fault in reads:
            self.stripe.inject(fault, skip=0, operation=GET)
        before, now = self.stripe.standing(), self.program.now
        self._run(self.program.book())
        if not reads:
            self._booked(now)
        self._run(self.program.drain(workers=workers, in_flight=in_flight))
        self.stripe.heal()
        self._booked(now)
        self._look()
        self._run(ledger.must_be_drained(self.program, self.billing))
        told = self._run(ledger.told(self.program, self.billing))
        after = self.stripe.standing()
        self.billing.drained(self.program.now, before, after, told)
        for item, periods in self.stripe.totals().items():
            for period, total in periods.items():
                held = after[item][period].values()
                assert total == (max(held, default=0) if item.endswith("max") else sum(held))
        self.bench.drains += 1
        for item in told.values():
            self.bench.seen["carried"] += item.carried > 0
            self.bench.seen["owed"] += item.credit_due > 0
            self.bench.seen["in doubt"] += item.in_doubt > 0

    @rule(news=news, number=st.integers(0, 6), executed=st.booleans(), forget=st.booleans())
    def kill(self, news: list[Message], number: int, executed: bool, forget: bool) -> None:
        """Work, and die while a POST is under way (or when all was sent)."""
        self.bench.seen["kills"] += 1
        self._deliver(*news)
        self._make_room()
        now = self.program.now
        self._run(self.program.book())
        self._booked(now)
        self._run(self.program.carry())
        if forget:
            self.program.forget()
        self._wait(2)
        self.billing.unheard |= self._run(self.program.kill(number, executed=executed))
        self._look()
        self._follow()

    @rule(news=news, carry=st.booleans())
    def book_only(self, news: list[Message], carry: bool) -> None:
        """Work without sending."""
        self._deliver(*news)
        now = self.program.now
        self._run(self.program.book())
        self._booked(now)
        if carry:
            self._run(self.program.carry())
        self._look()
        self._follow()

    @rule(seconds=st.sampled_from([60, HOUR, 5 * HOUR, 20 * HOUR]))
    def wait(self, seconds: int) -> None:
        """Time goes by in the period."""
        self._wait(seconds)

    @rule(
        news=news,
        after=st.sampled_from([6, 600, 3_000, 2 * HOUR, 26 * HOUR]),
        which=st.sampled_from(SUBSCRIPTIONS),
        drained=st.booleans(),
        late=st.lists(st.lists(corrections, min_size=1, max_size=2), max_size=3),
    )
    def roll_over(
        self,
        news: list[Message],
        after: int,
        which: str,
        drained: bool,
        late: list[list[Correction]],
    ) -> None:
        """A subscription's next period begins, whatever was not sent before. Then come corrections,
        and after each of some the ledger is drained."""
        self._deliver(*news)
        if drained:
            self._drain([], [], 1, 1)
        self._run(self.program.read(SUBSCRIPTIONS))
        self._look()
        subscriptions = self.billing.subscriptions
        target = self._next_boundary(subscriptions[which]) + after
        for boundary in sorted(self._next_boundary(found) for found in subscriptions.values()):
            if boundary + after < target:  # no period goes by unseen
                self.program.move(boundary + 1)
                self._look()
        self.program.move(target)
        for step in late:
            for correction in step:
                self._correct(correction)
            self._drain([], [], 1, 1)

    @rule(
        key=st.sampled_from([("tokens", ""), ("tokens", "x"), ("peak", "")]),
        scale=scales,
        record_per=record_pers,
    )
    def remap(self, key: tuple[str, str], scale: Fraction, record_per: str) -> None:
        """A meter is scaled and put together otherwise, for what is not booked yet."""
        self.billing.change(*key, scale=scale, record_per=record_per)
        self._apply()

    @rule(rounding=roundings)
    def round_otherwise(self, rounding: str) -> None:
        """Another rounding, for periods that hold nothing yet."""
        for key in self.billing.rules:
            self.billing.change(*key, rounding=rounding)
        self._apply()

    @precondition(lambda self: not self.billing.hold_items)
    @rule(group=st.sampled_from(["", "x"]), price=st.sampled_from(["price_a", "price_b"]))
    def reprice(self, group: str, price: str) -> None:
        """A meter's windows go to another item, those that are booked already included."""
        before = self.billing.rules["tokens", group].price
        if before == price:
            return
        self.billing.change("tokens", group, price=price)
        try:
            self._apply()
            refused = False
        except MovesBilledUsage:
            refused = True
        self.billing.change("tokens", group, price=before)
        self.billing.reprice(group, price, self.program.now, refused=refused)
        self.bench.seen["moves refused" if refused else "moves"] += 1
        self.bench.seen["windows to be moved"] += len(self.billing.moving)

    @rule(subject=st.sampled_from(sorted(SUBJECTS)), name=st.sampled_from(SUBSCRIPTIONS))
    def upgrade(self, subject: str, name: str) -> None:
        """A subject moves to another subscription from now on."""
        since, before = max(self.billing.spans[subject])
        if before != name and since < self.program.now:
            self.billing.move(subject, name, self.program.now)
            self._apply()

    def teardown(self) -> None:
        """Drain a last time, unless something else is wrong already."""
        self.stripe.heal()
        if sys.exc_info()[0] is None:
            self._drain([], [], 1, 1)
        if hasattr(self, "billing"):
            self.bench.adopted += self.billing.adopted
            self.bench.posts += len(self.stripe.sandbox.ledger)

    def _run(self, awaitable: Any) -> Any:
        return self.bench.runner.run(awaitable)

    def _look(self) -> None:
        self._run(self.program.read(SUBSCRIPTIONS))
        for name in SUBSCRIPTIONS:
            self.billing.look(name, self.program.now)

    def _booked(self, now: int) -> None:
        windows = self._run(ledger.windows(self.program, self.billing))
        roundings = self._run(ledger.roundings(self.program, self.billing))
        self.billing.book(now, windows, roundings)

    def _follow(self) -> None:
        self.billing.follow(self.program.now, self._run(ledger.told(self.program, self.billing)))

    def _next_boundary(self, subscription: Subscription) -> int:
        return subscription.start(subscription.current(self.program.now) + 1)

    def _wait(self, seconds: int) -> None:
        """Move on, and stay in the periods that are open."""
        ends = [self._next_boundary(found) for found in self.billing.subscriptions.values()]
        now = self.program.now
        self.program.move(max(now, min(now + seconds, min(ends) - 3 * LONGEST_DRAIN)))

    def _make_room(self) -> None:
        """Let neither a period nor its grace end while the ledger is drained."""
        for _ in SUBSCRIPTIONS:
            for subscription in self.billing.subscriptions.values():
                start = subscription.start(subscription.current(self.program.now))
                for end in (start + self.billing.grace, start + subscription.length):
                    if 0 <= end - self.program.now <= LONGEST_DRAIN:
                        self.program.move(end + 10)

    def _prepare(self, message: Message) -> tuple[str, int, Message, int]:
        self.messages += 1
        at = MIDNIGHT + 1_000 * self.messages - 1_000 * message.age - (message.age > 0)
        return f"msg_{self.messages:06}", at, message, self.program.now

    def _deliver(self, *messages: Message) -> None:
        for message in messages:
            self._send(*self._prepare(message))

    def _send(self, svix_id: str, at: int, message: Message, now: int) -> None:
        """Deliver what a message says of the hours as they were at `now`."""
        name = self.billing.spans[message.subject][0][1]
        subscription = self.billing.subscriptions[name]
        start = subscription.start(subscription.current(now) - message.back)
        first = -(-start // HOUR) * HOUR
        told: dict[Window, tuple[dict[str, Any], str]] = {}
        for hour, group, value in message.rows:
            begins = first + HOURS[hour] * HOUR
            while begins + HOUR > now:
                begins -= 24 * HOUR
            window = Window(message.meter, message.subject, group, begins)
            told.setdefault(
                window,
                (
                    {
                        "value": value,
                        "windowStart": _iso(begins),
                        "windowEnd": _iso(begins + HOUR),
                        "groupBy": {"model": group} if group else None,
                    },
                    value,
                ),
            )
        body = {
            "type": "report.meter",
            "usage": [entry for entry, _ in told.values()],
            "query": {"subject": message.subject},
            "meter": {
                "slug": message.meter,
                "aggregation": "MAX" if message.meter == "peak" else "SUM",
            },
        }
        self._run(self.program.deliver(svix_id, at, body))
        for window, (_, value) in told.items():
            self.billing.tell(window, (at, svix_id), Fraction(value))
        self.told.append((svix_id, at, message, now))

    def _apply(self) -> None:
        self._run(self.program.apply(mapping_file(self.billing)))


def _iso(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def mapping_file(billing: Billing) -> str:
    """The mappings as an operator writes them."""
    lines = ["meters:"]
    for (meter, group), found in billing.rules.items():
        filtered = f"groups: {{model: {group}}}, " if group else ""
        lines.append(
            f"  - {{meter: {meter}, {filtered}price: {found.price}, scale: {found.scale}, "
            f"rounding: {found.rounding}, timestamp: {found.timestamp}, "
            f"record_per: {found.record_per}, late: {found.late}}}"
        )
    lines.append("subjects:")
    for subject, spans in billing.spans.items():
        ends = [*(since for since, _ in spans[1:]), None]
        for (since, name), until in zip(spans, ends, strict=True):
            entry = f"subject: {subject}, subscription: {name}"
            entry += f", valid_from: {_iso(since)}" if since else ""
            entry += f", valid_to: {_iso(until)}" if until else ""
            lines.append(f"  - {{{entry}}}")
    return "\n".join(lines)
