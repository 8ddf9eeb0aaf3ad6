"""Counters in Redis when it forgets, hangs, refuses or dies; each test on a Redis of its own."""

import asyncio
import random
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pytest
import redis as blocking
from sqlalchemy import URL

import mysql
import services
from fakes import an_envelope
from installation import Installation, open_installation
from mailtape import opening
from mailtape.data_folder import DataFolder
from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import Decision, Reason, Request, Usage, decide
from mailtape.domain.tier import NO_LIMITS, Limits
from mailtape.ports.counters import Counters, Key, NothingNew
from mailtape.roles.jobs import TEND_SECONDS
from mailtape.rows import messages
from mailtape.rows.database import Database, Session
from mailtape.settings import read_settings
from mailtape.stores import standby_counters
from mailtape.stores.redis_connection import SECONDS, RedisConnection
from mailtape.stores.redis_counters import OTHERS_SECONDS, RedisCounters
from mailtape.stores.shared_sql_counters import SharedSqlCounters
from mailtape.stores.standby_counters import StandbyCounters
from postroom import QA, a_mail, deliver
from services import Instance

pytestmark = pytest.mark.services

P = ParamSpec("P")
T = TypeVar("T")

LIMIT = 100
A_HUNDRED = Limits(emails_per_month=LIMIT)
THE_ROWS_HOLD = timedelta(minutes=50)
"""After this the rows tell of a commit, and need not hold it for a Redis that forgets."""
_PAUSE_SECONDS = 5
"""How long Redis is away where it comes back by itself."""
_BORNE = 3
"""How often Redis is asked in vain before it is left alone."""
_SLOWER = 2
"""By how much everything goes slower where processes of a loaded machine must notice in time."""
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with services.running("redis") as started:
        yield started


@pytest.fixture
def server(instance: Instance) -> Iterator[blocking.Redis]:
    """The test's own Redis, empty and in order before and after."""
    instance.start("redis")
    with blocking.Redis.from_url(instance.variables()["REDIS_URL"], socket_timeout=5) as client:
        client.flushall()
        yield client


@dataclass
class Fleet:
    """Processes on one Redis and the same rows."""

    installation: Installation
    server: blocking.Redis
    instance: Instance
    acme: OrganisationId
    processes: list[RedisCounters]
    connections: list[RedisConnection]

    def a_process(
        self,
        *,
        patience: float = 10.0,
        database: Database | None = None,
        seconds_for_others: float = 0,
    ) -> RedisCounters:
        """Start counters with a connection of their own, which waits so long for answers.

        Longer than the product's, unless time is what is shown: the machine may be loaded. Nor does
        one that finds Redis emptied wait for others, unless that is what is shown.
        """
        connection = RedisConnection(self.instance.variables()["REDIS_URL"], seconds=patience)
        counters = RedisCounters(
            connection,
            database or self.installation.parts.database,
            seconds_for_others=seconds_for_others,
        )
        self.connections.append(connection)
        self.processes.append(counters)
        return counters

    def with_standby(
        self, *, patience: float = SECONDS, seconds_for_others: float = 0
    ) -> StandbyCounters:
        """Start counters that go over to the rows."""
        counters = self.a_process(patience=patience, seconds_for_others=seconds_for_others)
        rows = SharedSqlCounters(self.installation.parts.database)
        return StandbyCounters(counters, rows, self.connections[-1])

    def now(self) -> datetime:
        return self.installation.clock()

    def key(self, name: str) -> str:
        return f"mailtape:{{{self.acme.hex()}}}:{name}"


async def _nothing() -> None:
    """Happens."""


@dataclass
class Watched:
    """Rows, and what happens before each transaction."""

    database: Database
    before_reading: Callable[[], Awaitable[object]] = field(default=_nothing)
    before_writing: Callable[[], Awaitable[object]] = field(default=_nothing)

    async def read(
        self, query: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await self.before_reading()
        return await self.database.read(query, *args, **kwargs)

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await self.before_writing()
        return await self.database.write(work, *args, **kwargs)

    async def write_bulk(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await self.before_writing()
        return await self.database.write_bulk(work, *args, **kwargs)


@pytest.fixture
async def fleet(
    installation: Installation, instance: Instance, server: blocking.Redis
) -> AsyncIterator[Fleet]:
    acme = await installation.an_organisation("acme")
    started = Fleet(installation, server, instance, acme, [], [])
    yield started
    for counters in started.processes:
        await counters.close()
    for connection in started.connections:
        await connection.close()


def _keys(count: int, run: object = 0) -> list[Key]:
    return [(f"transaction-{run}-{n}", QA) for n in range(count)]


async def _accepted(answer: Awaitable[Decision]) -> bool:
    try:
        return (await answer).accepted
    except Unavailable:
        return False


async def _told(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask as a sender does who was told to come again; no answer waits until Redis is back.

    The rows are asked as well, on a disk that others use: so the bound is not that of Redis alone.
    """
    for _ in range(5):
        begun = time.monotonic()
        try:
            return await ask()
        except Unavailable:
            pass
        finally:
            assert time.monotonic() - begun < _PAUSE_SECONDS / 2
    raise AssertionError("Redis does not answer and is asked all the same")


async def _reserved(
    counters: Counters, acme: OrganisationId, limits: Limits, key: Key, now: datetime
) -> bool:
    decision = await _told(lambda: counters.reserve(acme, limits, key, 1, now))
    return decision.accepted


# The script and the rule.


def _limits(chance: random.Random, usage: Usage, octets: int) -> Limits:
    """Choose limits that lie on either side of what is used."""

    def near(value: int) -> int | None:
        return chance.choice([None, 0, max(0, value - 1), value, value + 1, value + 2, 10**12])

    return Limits(
        emails_per_month=near(usage.emails + usage.reserved_emails),
        storage_bytes=near(usage.storage_bytes + usage.reserved_bytes + max(octets, 1)),
        message_bytes=near(octets),
        messages_per_minute=chance.choice([None, None, 0, 1, 2, 7, 60, 999, 70_000_000]),
        storage_is_hard=chance.random() < 0.5,
    )


async def test_the_script_decides_as_the_rule_does(fleet: Fleet, chance: random.Random) -> None:
    """Against itself, from one state to the next: 3,000 questions on 60 organisations."""
    verdicts: dict[str, int] = {}
    counters = fleet.a_process()
    for run in range(60):
        acme = await fleet.installation.an_organisation(f"acme-{run}")
        now = datetime(2026, 11, 30, 23, 5, tzinfo=UTC)  # 50 minutes pass at the most
        reserved: dict[Key, tuple[int, datetime]] = {}
        for number in range(50):
            now += timedelta(microseconds=chance.choice([0, 1, 999, 10**6, 10**6, 6 * 10**7]))
            octets = chance.choice([0, 0, 1, 100, 5_000])
            usage = await counters.usage(acme, now)
            limits = _limits(chance, usage, octets)
            key = (f"transaction-{run}-{number}", QA)
            before: int | None = None
            if chance.random() < 0.6:
                asked = await counters.reserve(acme, limits, key, octets, now)
                expected = decide(limits, usage, Request(octets), now)
            else:
                if reserved and chance.random() < 0.5:
                    key, (before, until) = chance.choice(list(reserved.items()))
                    before = before if until > now else None
                asked = await counters.fits(acme, limits, key, octets, now)
                expected = _fits(limits, usage, before, octets, now)
            assert asked == expected, (limits, usage, before, octets, now)
            if asked.accepted:
                until = reserved[key][1] if before is not None else now + timedelta(minutes=10)
                reserved[key] = octets, until
                if chance.random() < 0.3:
                    await counters.commit(acme, [key], octets + 1, now)
                    del reserved[key]
            name = f"{expected.reason} {before is not None}"
            verdicts[name] = verdicts.get(name, 0) + 1
        left = [octets for octets, until in reserved.values() if until > now]
        usage = await counters.usage(acme, now)
        assert (usage.reserved_emails, usage.reserved_bytes) == (len(left), sum(left))
    assert len(verdicts) >= 9, verdicts
    assert min(verdicts.values()) >= 10, verdicts


def _fits(limits: Limits, usage: Usage, before: int | None, octets: int, now: datetime) -> Decision:
    """Ask the rule about a mail that is here, for which `before` octets are held."""
    others = usage._replace(reserved_bytes=usage.reserved_bytes - (before or 0))
    by_size = decide(limits, others, Request(octets, received=True), now)
    if before is None and by_size.accepted:
        return decide(limits, usage, Request(octets), now)
    return by_size


async def test_what_is_asked_at_a_time_goes_together(fleet: Fleet) -> None:
    counters = fleet.a_process()
    await counters.usage(fleet.acme, fleet.now())
    before = fleet.server.info("commandstats")["cmdstat_evalsha"]["calls"]

    asked = (
        counters.reserve(fleet.acme, A_HUNDRED, key, 1, fleet.now()) for key in _keys(2 * LIMIT)
    )
    told = await asyncio.gather(*asked)

    assert sum(decision.accepted for decision in told) == LIMIT
    calls = fleet.server.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert calls <= 2


# Redis forgets.


async def test_exactly_the_limit_is_granted_though_redis_is_emptied_again_and_again(
    fleet: Fleet, chance: random.Random, tell: Callable[..., None]
) -> None:
    """200 ask, in 50 runs: emptied before, in the middle of, or after each half of them.

    All at once is one call, which an emptying hardly ever meets: so in 25 runs more there are
    twenty who ask on and on, and it is emptied after so many answers.
    """
    met = 0
    for run in range(50 + 25):
        acme = await fleet.installation.an_organisation(f"acme-{run}")
        counters = fleet.a_process()
        keys = _keys(200, run)
        each = 1 if run < 50 else 10
        asked: list[asyncio.Task[None]] = []
        told: list[bool] = []
        amid = False
        for begin, end in ((0, 120), (120, 200)):
            asked += [
                asyncio.create_task(
                    _asks(counters, acme, keys[first : first + each], fleet.now(), told)
                )
                for first in range(begin, end, each)
            ]
            if each == 1:
                await asyncio.sleep(chance.random() * 0.03)
            else:
                await _so_many(told, len(told) + chance.randrange(1, (end - begin) // 2))
            before = len(told)
            await asyncio.to_thread(fleet.server.flushall)
            amid = amid or 0 < before <= len(told) < end
        await asyncio.gather(*asked)

        assert sum(told) == LIMIT
        assert (await counters.usage(acme, fleet.now())).reserved_emails == LIMIT
        met += amid
    tell(f"emptied between the first answer and the last in {met} of 75 runs")
    assert met >= 5, met


async def _asks(
    counters: Counters,
    acme: OrganisationId,
    keys: Sequence[Key],
    now: datetime,
    told: list[bool],
) -> None:
    for key in keys:
        accepted = await _accepted(counters.reserve(acme, A_HUNDRED, key, 1, now))
        told.append(accepted)


async def _so_many(told: list[bool], answers: int) -> None:
    async with asyncio.timeout(60):
        while len(told) < answers:
            await asyncio.sleep(0)


async def test_two_busy_processes_grant_no_more_between_them_when_redis_is_emptied(
    fleet: Fleet, chance: random.Random, *, soak: bool
) -> None:
    processes = [fleet.a_process(seconds_for_others=1.0) for _ in range(2)]
    for run in range(20 if soak else 8):
        acme = await fleet.installation.an_organisation(f"acme-{run}")

        emptied = asyncio.Event()

        async def ask(
            counters: RedisCounters,
            keys: list[Key],
            acme: OrganisationId = acme,
            emptied: asyncio.Event = emptied,
        ) -> int:
            granted = 0
            for start in range(0, len(keys), 10):
                if start == len(keys) - 10:
                    await emptied.wait()  # both are busy then, however fast they are
                some = keys[start : start + 10]
                granted += await _granted(counters, acme, some, fleet.now())
            return granted

        asked = [
            asyncio.create_task(ask(counters, _keys(100, f"{run}-{n}")))
            for n, counters in enumerate(processes)
        ]
        await asyncio.sleep(chance.random() * 0.02)
        await asyncio.to_thread(fleet.server.flushall)
        emptied.set()

        assert sum(await asyncio.gather(*asked)) == LIMIT


async def test_a_process_that_asks_nothing_tells_what_it_granted_within_a_second(
    fleet: Fleet,
) -> None:
    quiet, busy = fleet.a_process(), fleet.a_process()
    for key in _keys(60):
        await quiet.reserve(fleet.acme, A_HUNDRED, key, 1, fleet.now())
    await busy.usage(fleet.acme, fleet.now())
    fleet.server.flushall()

    await quiet.tend(fleet.now())

    usage = await busy.usage(fleet.acme, fleet.now())
    assert usage.reserved_emails == 60


async def test_what_was_committed_and_is_on_its_way_counts_after_redis_forgot(
    fleet: Fleet,
) -> None:
    counters = fleet.a_process()
    for key in _keys(60):
        await counters.reserve(fleet.acme, A_HUNDRED, key, 1, fleet.now())
        await counters.commit(fleet.acme, [key], 1, fleet.now())

    fleet.server.flushall()

    granted = [
        await _accepted(counters.reserve(fleet.acme, A_HUNDRED, key, 1, fleet.now()))
        for key in _keys(60, "other")
    ]
    assert sum(granted) == 40
    assert await _accepted(counters.reserve(fleet.acme, A_HUNDRED, _keys(1)[0], 1, fleet.now()))


async def test_what_an_idle_process_granted_counts_for_whoever_finds_redis_emptied(
    fleet: Fleet,
) -> None:
    await fleet.a_process().usage(fleet.acme, fleet.now())  # it is not empty at first
    idle, busy = (fleet.a_process(seconds_for_others=OTHERS_SECONDS * _SLOWER) for _ in range(2))
    upkeep = [asyncio.create_task(_tended(each, fleet)) for each in (idle, busy)]
    others = [await fleet.installation.an_organisation(f"acme-{run}") for run in range(5)]
    for acme in others:
        assert await _granted(idle, acme, _keys(60, acme.hex()), fleet.now()) == 60
    fleet.server.flushall()

    counted = await asyncio.gather(
        *(_granted(busy, acme, _keys(100, f"{acme.hex()}-busy"), fleet.now()) for acme in others)
    )

    assert counted == [40] * len(others)
    for task in upkeep:
        task.cancel()


async def _tended(counters: RedisCounters, fleet: Fleet) -> None:
    while True:
        await counters.tend(fleet.now())
        await asyncio.sleep(TEND_SECONDS * _SLOWER)


async def _granted(
    counters: Counters, acme: OrganisationId, keys: Sequence[Key], now: datetime
) -> int:
    """Ask about these at once, each again until it is told; give how many are granted."""

    async def ask(key: Key) -> bool:
        deadline = time.monotonic() + 10
        while True:
            try:
                return (await counters.reserve(acme, A_HUNDRED, key, 1, now)).accepted
            except Unavailable:
                assert time.monotonic() < deadline, "never told"
                await asyncio.sleep(0.1)

    return sum(await asyncio.gather(*map(ask, keys)))


async def test_while_the_others_tell_what_is_held_is_answered_and_no_more_is_granted(
    fleet: Fleet,
) -> None:
    (held, new), now = _keys(2), fleet.now()
    counters = fleet.with_standby(patience=10, seconds_for_others=3)
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.reserve(fleet.acme, A_HUNDRED, held, 10, now)

    begun = time.monotonic()
    assert (await counters.reserve(fleet.acme, A_HUNDRED, held, 10, now)).accepted
    assert (await counters.fits(fleet.acme, A_HUNDRED, held, 20, now)).accepted
    for ask in (counters.reserve, counters.fits):
        with pytest.raises(NothingNew):
            await ask(fleet.acme, A_HUNDRED, new, 10, now)
    await counters.commit(fleet.acme, [held], 20, now)
    assert (await counters.usage(fleet.acme, now)).emails == 1
    assert await _granted(counters, fleet.acme, [new], now) == 1
    assert 3 <= time.monotonic() - begun < 10
    await counters.close()


@pytest.mark.parametrize("another_first", [True, False])
async def test_a_redis_that_comes_back_as_it_was_before_forgets_no_grant(
    fleet: Fleet, *, another_first: bool
) -> None:
    """Ten were on its disk; ninety more were granted when it died, half of them by an idle one."""
    counters, idle = fleet.a_process(), fleet.a_process()
    assert await _granted(counters, fleet.acme, _keys(10), fleet.now()) == 10
    fleet.server.config_set("appendonly", "no")
    assert await _granted(counters, fleet.acme, _keys(45, "more"), fleet.now()) == 45
    assert await _granted(idle, fleet.acme, _keys(45, "idle"), fleet.now()) == 45
    fleet.instance.kill("redis")
    fleet.instance.start("redis")
    assert fleet.server.zcard(fleet.key("reserved")) == 10, "as it was before"

    if another_first:
        await _told(lambda: counters.usage(OrganisationId(bytes(16)), fleet.now()))
    usage = await _told(lambda: counters.usage(fleet.acme, fleet.now()))
    assert usage.reserved_emails == 55
    await _told(lambda: idle.tend(fleet.now()))

    assert await _granted(counters, fleet.acme, _keys(90, "after"), fleet.now()) == 0
    usage = await idle.usage(fleet.acme, fleet.now())
    assert usage.reserved_emails == LIMIT


async def test_what_waits_to_be_stored_counts_whenever_redis_forgets_it(fleet: Fleet) -> None:
    """The workers are down for hours; then half of it is stored, then all, with one hanging."""
    counters, now = fleet.a_process(), fleet.now()
    keys = _keys(LIMIT)
    await _granted(counters, fleet.acme, keys, now)
    for key in keys:
        await counters.commit(fleet.acme, [key], 1, now)
    for hours in (1, 5):
        later = now + timedelta(hours=hours)
        await counters.reconcile(later, stored=now - timedelta(minutes=1))
        fleet.server.flushall()
        assert await _granted(counters, fleet.acme, _keys(20, hours), later) == 0
        assert (await counters.usage(fleet.acme, later)).emails == LIMIT

    for key in keys[:50]:
        await deliver(fleet.installation, fleet.acme, transaction=key[0])
    fleet.server.flushall()
    assert (await counters.usage(fleet.acme, later)).emails == LIMIT
    assert (await counters.usage(fleet.acme, later + timedelta(minutes=2))).reserved_emails == 0

    await counters.reconcile(later, stored=later)
    fleet.server.flushall()
    assert await _counted(counters, fleet) == (50, 50 * len(a_mail())), "half was never stored"


@pytest.mark.parametrize("order", [1, -1])
async def test_the_true_size_is_held_after_redis_forgot_whoever_tells_first(
    fleet: Fleet, order: int
) -> None:
    policy, ingest = fleet.a_process(), fleet.a_process()
    await policy.reserve(fleet.acme, A_HUNDRED, _keys(1)[0], 10, fleet.now())
    assert (await ingest.fits(fleet.acme, A_HUNDRED, _keys(1)[0], 60, fleet.now())).accepted

    fleet.server.flushall()
    for counters in (policy, ingest)[::order]:
        await counters.tend(fleet.now())

    usage = await fleet.a_process().usage(fleet.acme, fleet.now())
    assert (usage.reserved_emails, usage.reserved_bytes) == (1, 60)


async def test_scripts_are_loaded_again_when_redis_lost_them(fleet: Fleet) -> None:
    counters = fleet.a_process()
    await counters.reserve(fleet.acme, A_HUNDRED, _keys(1)[0], 1, fleet.now())

    fleet.server.script_flush()

    assert (await counters.usage(fleet.acme, fleet.now())).reserved_emails == 1


async def test_every_key_runs_out_by_itself(fleet: Fleet) -> None:
    counters = fleet.a_process()
    keys = _keys(3)
    for key in keys:
        await counters.reserve(fleet.acme, A_HUNDRED, key, 1, fleet.now())
    await counters.commit(fleet.acme, keys[:1], 1, fleet.now())
    await counters.rename("6d65.0", "4XyzQ1Wk", fleet.now())

    kept = {key.decode(): fleet.server.ttl(key) for key in fleet.server.scan_iter()}

    eternal = {key for key, seconds in kept.items() if seconds < 0}
    assert eternal == {"mailtape:filled"}
    assert len(kept) == 7
    assert all(
        "{" + fleet.acme.hex() + "}" in key
        for key in kept
        if "joined" not in key and key not in eternal
    )


@pytest.mark.parametrize("lost", [("reserved", "octets"), ("reserved",), ("octets",)])
async def test_room_of_reservations_that_ran_out_unseen_is_free_again(
    fleet: Fleet, lost: tuple[str, ...]
) -> None:
    """Nobody asked about them for an hour, as while Redis is down, and their keys are gone."""
    limits, (first, second, third) = Limits(storage_bytes=200), _keys(3)
    await fleet.a_process().reserve(fleet.acme, limits, first, 150, fleet.now())
    await asyncio.to_thread(_run_out, fleet, lost)

    counters = fleet.a_process()
    usage = await counters.usage(fleet.acme, fleet.now())
    assert (usage.reserved_emails, usage.reserved_bytes) == (0, 0)
    assert (await counters.reserve(fleet.acme, limits, second, 150, fleet.now())).accepted
    assert not (await counters.reserve(fleet.acme, limits, third, 51, fleet.now())).accepted


async def test_room_of_reservations_that_ran_out_unseen_is_free_to_who_fills(fleet: Fleet) -> None:
    await fleet.a_process().reserve(fleet.acme, A_HUNDRED, _keys(1)[0], 150, fleet.now())
    await asyncio.to_thread(_run_out, fleet, ("reserved", "octets"))
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.reserve(fleet.acme, A_HUNDRED, _keys(1, "rows")[0], 10, fleet.now())

    usage = await fleet.a_process().usage(fleet.acme, fleet.now())
    assert (usage.reserved_emails, usage.reserved_bytes) == (1, 10)


def _run_out(fleet: Fleet, names: Iterable[str]) -> None:
    for name in names:
        assert fleet.server.pexpire(fleet.key(name), 1)
    time.sleep(0.01)


async def _counted(counters: RedisCounters, fleet: Fleet) -> tuple[int, int]:
    usage = await counters.usage(fleet.acme, fleet.now())
    return usage.emails, usage.storage_bytes


async def test_counted_mail_counts_for_as_long_as_it_may_wait_to_be_stored(fleet: Fleet) -> None:
    counters, now = fleet.a_process(), fleet.now()
    await counters.commit(fleet.acme, _keys(2), 100, now)

    for seconds in range(5, 5000, 5):
        stored = None if seconds % 2 else now  # all that was accepted before, and not at, this time
        at = now + timedelta(seconds=seconds)
        assert await counters.reconcile(at, stored=stored) == 1

    assert await _counted(counters, fleet) == (2, 200)


async def test_what_has_no_rows_is_taken_away_when_all_mail_of_its_time_is_stored(
    fleet: Fleet,
) -> None:
    counters, now = fleet.a_process(), fleet.now()
    stored = now + timedelta(seconds=20)
    await counters.commit(fleet.acme, _keys(3), 100, now)
    await deliver(fleet.installation, fleet.acme)

    assert await counters.reconcile(now, stored=stored - timedelta(hours=1)) == 1
    await counters.commit(fleet.acme, _keys(4, "later"), 7, stored)
    assert await _counted(counters, fleet) == (7, 328)
    assert await counters.reconcile(stored, stored=stored) == 1

    assert await _counted(counters, fleet) == (1 + 4, len(a_mail()) + 4 * 7)


async def test_nothing_is_taken_away_that_was_counted_after_the_look_at_the_queue(
    fleet: Fleet,
) -> None:
    counters, now = fleet.a_process(), fleet.now()
    await counters.usage(fleet.acme, now)
    await counters.commit(fleet.acme, _keys(2), 100, now)  # the queue was empty a moment before

    assert await counters.reconcile(now, stored=now) == 1

    assert await _counted(counters, fleet) == (2, 200)


async def test_nothing_is_taken_away_that_was_counted_while_a_round_went_on(fleet: Fleet) -> None:
    database, now = Watched(fleet.installation.parts.database), fleet.now()
    counters = fleet.a_process(database=database)
    await counters.usage(fleet.acme, now)

    async def mail_comes() -> None:
        await asyncio.sleep(0.2)
        await counters.commit(fleet.acme, _keys(1), 100, now + timedelta(seconds=0.2))

    database.before_reading = mail_comes
    await counters.reconcile(now, stored=None)
    database.before_reading = _nothing
    await counters.reconcile(now, stored=now + timedelta(seconds=0.1))

    assert await _counted(counters, fleet) == (1, 100)


async def test_deleting_gives_room_back_and_no_mail_of_the_month(fleet: Fleet) -> None:
    counters, now = fleet.a_process(), fleet.now()
    database = fleet.installation.parts.database
    for _ in range(2):
        await deliver(fleet.installation, fleet.acme)
    assert await _counted(counters, fleet) == (2, 2 * len(a_mail()))
    await database.write_bulk(messages.delete_oldest, fleet.acme, 1, now=now)

    for seconds in (0, 20):
        at = now + timedelta(seconds=seconds)
        assert await counters.reconcile(at, stored=at) == 1
    assert await counters.reconcile(at, stored=at) == 0

    assert await _counted(counters, fleet) == (2, len(a_mail()))


async def test_rows_that_were_not_counted_are_at_the_second_look(fleet: Fleet) -> None:
    counters, now = fleet.a_process(), fleet.now()
    await counters.usage(fleet.acme, now)
    for _ in range(2):
        await deliver(fleet.installation, fleet.acme)

    assert await counters.reconcile(now, stored=None) == 1
    assert await _counted(counters, fleet) == (0, 0)
    await counters.commit(fleet.acme, _keys(1), len(a_mail()), now)  # one was only about to be
    assert await counters.reconcile(now, stored=None) == 1

    assert await _counted(counters, fleet) == (2, 2 * len(a_mail()))
    assert await counters.reconcile(now, stored=None) == 0


async def test_of_many_processes_that_see_the_same_one_corrects_it(fleet: Fleet) -> None:
    now, later = fleet.now(), fleet.now() + timedelta(seconds=20)
    processes = [fleet.a_process() for _ in range(10)]
    await processes[0].commit(fleet.acme, _keys(50), 100, now)
    await deliver(fleet.installation, fleet.acme)
    for counters in processes:
        await counters.usage(fleet.acme, now)
        await counters.reconcile(now, stored=None)

    await asyncio.gather(*(counters.reconcile(later, stored=later) for counters in processes))

    assert await _counted(processes[0], fleet) == (1, len(a_mail()))


async def test_what_was_seen_of_counters_that_are_gone_is_no_word_on_new_ones(
    fleet: Fleet,
) -> None:
    counters, now = fleet.a_process(), fleet.now()
    later = now + timedelta(seconds=1)
    await counters.commit(fleet.acme, _keys(5), 100, now)
    await counters.reconcile(now, stored=None)
    fleet.server.flushall()
    await counters.release(fleet.acme, _keys(5))
    await counters.usage(fleet.acme, later)
    await counters.commit(fleet.acme, _keys(3, "new"), 10, later)

    await counters.reconcile(later, stored=later)

    assert await _counted(counters, fleet) == (5 + 3, 5 * 100 + 3 * 10)


async def test_many_organisations_are_corrected_in_rounds_that_end_in_time(fleet: Fleet) -> None:
    """One by one, a round would take fifteen seconds; no look at the queue may wait for that."""
    organisations = [OrganisationId(secrets.token_bytes(16)) for _ in range(700)]
    database, now = Watched(fleet.installation.parts.database), NOON
    counters = fleet.a_process(database=database)
    await asyncio.gather(*(counters.commit(each, _keys(1), 100, now) for each in organisations))
    database.before_reading = partial(asyncio.sleep, 0.02)
    rounds: list[float] = []
    at = now

    while len(rounds) < 20 and not all(await _emptied(fleet, organisations, now)):
        begun, at = time.monotonic(), at + timedelta(minutes=1)
        await counters.reconcile(at, stored=at)
        rounds.append(time.monotonic() - begun)

    assert all(await _emptied(fleet, organisations, now)), rounds
    assert max(rounds) < 2, rounds
    assert len(rounds) > 2, "no round was cut short"


async def _emptied(
    fleet: Fleet, organisations: Iterable[OrganisationId], now: datetime
) -> list[bool]:
    keys = [f"mailtape:{{{each.hex()}}}:{now:%Y-%m}" for each in organisations]
    return [mails == b"0" for mails in await asyncio.to_thread(fleet.server.mget, keys)]


async def test_a_look_at_the_queue_that_told_nothing_does_not_undo_what_was_told(
    instance: Instance, server: blocking.Redis, migrated_rows: Path, tmp_path: Path
) -> None:
    folder, acme, now = DataFolder(tmp_path), OrganisationId(bytes(16)), NOON
    shutil.copy(migrated_rows, folder.rows)
    settings = read_settings(tmp_path / "none.env", redis_url=instance.variables()["REDIS_URL"])
    async with opening.opened(settings, folder) as stores:
        counting = await stores.counting()
        assert counting.look is not None
        assert counting.reconcile is not None
        await counting.counters.commit(acme, _keys(1), 100, now)
        await counting.reconcile(now)
        await counting.look(now + timedelta(minutes=1))
        await stores.queue.put(an_envelope(b"one"), b"one")
        await counting.look(now + timedelta(minutes=2))

        assert await counting.reconcile(now + timedelta(minutes=2)) == 1

        assert (await counting.counters.usage(acme, now)).emails == 0


# Redis is down.


def _killed(fleet: Fleet) -> Callable[[], None]:
    fleet.instance.kill("redis")
    return lambda: fleet.instance.start("redis")


def _paused(fleet: Fleet) -> Callable[[], None]:
    fleet.instance.pause("redis")
    return lambda: fleet.instance.resume("redis")


def _a_replica(fleet: Fleet) -> Callable[[], None]:
    fleet.server.execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: fleet.server.execute_command("REPLICAOF", "NO", "ONE")


def _without_memory(fleet: Fleet) -> Callable[[], None]:
    fleet.server.config_set("maxmemory", 1)
    return lambda: fleet.server.config_set("maxmemory", 256 * 2**20)


def _slow(fleet: Fleet) -> Callable[[], None]:
    fleet.server.execute_command("CLIENT", "PAUSE", _PAUSE_SECONDS * 1000, "ALL")
    return lambda: time.sleep(_PAUSE_SECONDS)


def _with_a_password(fleet: Fleet) -> Callable[[], None]:
    fleet.server.config_set("requirepass", "other")
    fleet.server.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return lambda: fleet.server.config_set("requirepass", "")


@pytest.mark.parametrize(
    "failure", [_killed, _paused, _a_replica, _without_memory, _slow, _with_a_password]
)
async def test_no_question_waits_until_redis_is_back_and_the_limit_holds(
    fleet: Fleet, failure: Callable[[Fleet], Callable[[], None]]
) -> None:
    """A hundred reserved before, while and after: the limit is one of 150, whoever counts."""
    counters, limits = fleet.with_standby(), Limits(emails_per_month=150)
    granted = 0

    async def ask(keys: list[Key]) -> int:
        taken = 0
        for key in keys:
            taken += await _reserved(counters, fleet.acme, limits, key, fleet.now())
        return taken

    granted += await ask(_keys(100, "before"))
    await counters.commit(fleet.acme, _keys(20, "before"), 1, fleet.now())
    recover = await asyncio.to_thread(failure, fleet)
    granted += await ask(_keys(30, "while"))
    await counters.commit(fleet.acme, _keys(10, "while"), 1, fleet.now())
    assert granted == 130
    await asyncio.to_thread(recover)
    await _redis_is_asked_again(fleet)
    granted += await ask(_keys(60, "after"))

    assert granted == 150
    usage = await fleet.processes[0].usage(fleet.acme, fleet.now())
    assert (usage.emails, usage.reserved_emails) == (30, 120)
    await counters.close()


@pytest.mark.parametrize("failure", [_killed, _paused, _slow])
async def test_redis_alone_keeps_nobody_waiting_for_a_second(
    fleet: Fleet, failure: Callable[[Fleet], Callable[[], None]]
) -> None:
    """Without the rows, whose disk others use; any one call may be held up by the machine."""
    await fleet.a_process(patience=SECONDS).usage(fleet.acme, fleet.now())
    recover = await asyncio.to_thread(failure, fleet)
    took = []
    for _ in range(5):
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            await fleet.connections[-1].commands([("PING",)])
        took.append(time.monotonic() - begun)
    assert min(took[:_BORNE]) < 1, took
    assert max(took) < _PAUSE_SECONDS / 2, took
    await asyncio.to_thread(recover)


async def test_the_true_size_goes_along_into_the_rows_and_back(fleet: Fleet) -> None:
    policy, ingest, now = fleet.with_standby(), fleet.with_standby(), fleet.now()
    limits = Limits(storage_bytes=200)
    one, two = _keys(2)
    for key in (one, two):
        await policy.reserve(fleet.acme, limits, key, 10, now)
    assert (await ingest.fits(fleet.acme, limits, one, 60, now)).accepted

    fleet.instance.pause("redis")
    held = [
        (await _told(lambda each=each: each.usage(fleet.acme, now))).reserved_bytes  # type: ignore[misc]
        for each in (policy, ingest)
    ]
    assert held == [20, 70]
    assert (await ingest.fits(fleet.acme, limits, two, 141, now)).reason == Reason.STORAGE
    assert (await ingest.fits(fleet.acme, limits, two, 100, now)).accepted
    fleet.instance.resume("redis")
    await _redis_is_asked_again(fleet)

    for counters in (policy, ingest):
        usage = await counters.usage(fleet.acme, now)
        assert (usage.reserved_emails, usage.reserved_bytes) == (2, 160)
        await counters.close()


async def _redis_is_asked_again(fleet: Fleet, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not all(connection.available for connection in fleet.connections):
        assert time.monotonic() < deadline, "Redis answers and is not asked"
        await asyncio.sleep(0.05)


async def test_counts_by_the_rows_go_into_redis_within_five_seconds_untouched(
    fleet: Fleet,
) -> None:
    """Nobody asks the process that counted in the rows anything more; another one is asked."""
    one, other = fleet.with_standby(), fleet.a_process()
    await one.reserve(fleet.acme, A_HUNDRED, _keys(1)[0], 1, fleet.now())
    fleet.instance.kill("redis")
    for key in _keys(50, "while"):
        assert await _reserved(one, fleet.acme, A_HUNDRED, key, fleet.now())
    await one.commit(fleet.acme, _keys(20, "while"), 1, fleet.now())
    await deliver(fleet.installation, fleet.acme, transaction="transaction-while-0")
    fleet.instance.start("redis")
    begun = time.monotonic()

    while True:
        try:
            usage = await other.usage(fleet.acme, fleet.now())
        except Unavailable:
            usage = Usage()
        if (usage.emails, usage.reserved_emails) == (20, 31):
            break
        assert time.monotonic() - begun < 5, usage
        await asyncio.sleep(0.1)
    await one.close()


async def test_who_brings_holds_in_takes_none_away_that_changed_meanwhile(
    instance: Instance, server: blocking.Redis, migrated_mysql: URL, tmp_path: Path
) -> None:
    """Another process still counts by the rows: it must neither fail nor be forgotten."""
    rounds, each = 20, 10
    async with (
        mysql.rows_of(migrated_mysql) as database,
        open_installation(tmp_path, elsewhere=database) as installation,
    ):
        acme, now = await installation.an_organisation("acme"), installation.clock()
        connection = RedisConnection(instance.variables()["REDIS_URL"], seconds=10.0)
        ours, theirs = RedisCounters(connection, database), SharedSqlCounters(database)
        for number in range(rounds):
            keys = _keys(each, number)
            for key in keys:
                await theirs.reserve(acme, NO_LIMITS, key, 1, now)
            committed = (theirs.commit(acme, [key], 1, now) for key in keys)
            later = now + THE_ROWS_HOLD
            await asyncio.gather(ours.bring_in(acme, now), ours.tend(later), *committed)
            await ours.bring_in(acme, now)

        usage = await ours.usage(acme, now)
        await ours.close()
        await connection.close()
    assert (usage.emails, usage.reserved_emails) == (rounds * each, 0)


async def _hour_passes(fleet: Fleet) -> None:
    """Let the processes do what they put off, and Redis know no longer what was committed."""
    for counters in fleet.processes:
        with suppress(Unavailable):
            await counters.tend(fleet.now() + THE_ROWS_HOLD)
    fleet.server.delete(fleet.key("committed"))


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("delivered", [True, False])
async def test_what_the_rows_held_is_counted_once_however_many_start_afterwards(
    fleet: Fleet, *, counted: bool, delivered: bool
) -> None:
    """Who counted it in the rows died before Redis was back, with its counters or without."""
    (key,) = _keys(1)
    if counted:
        await fleet.a_process().usage(fleet.acme, fleet.now())
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.commit(fleet.acme, [key], len(a_mail()), fleet.now())
    if delivered:
        await deliver(fleet.installation, fleet.acme, transaction=key[0])

    assert await _counted(fleet.a_process(), fleet) == (1, len(a_mail()))
    await _hour_passes(fleet)
    assert await _counted(fleet.a_process(), fleet) == (1, len(a_mail()))


async def test_what_the_rows_held_counts_though_redis_forgets_it_before_it_is_stored(
    fleet: Fleet,
) -> None:
    rows = SharedSqlCounters(fleet.installation.parts.database)
    counters = fleet.a_process()
    await rows.commit(fleet.acme, _keys(1), 100, fleet.now())
    await counters.bring_in(fleet.acme, fleet.now())

    assert (await rows.usage(fleet.acme, fleet.now())).emails == 1, "who still asks there"
    fleet.server.flushall()
    assert await _counted(fleet.a_process(), fleet) == (1, 100)
    await counters.tend(fleet.now() + THE_ROWS_HOLD)

    assert (await rows.usage(fleet.acme, fleet.now())).emails == 0, "no hour later counted anew"
    assert await _counted(counters, fleet) == (1, 100)


async def test_what_was_brought_in_is_brought_in_again_before_the_rows_let_it_go(
    fleet: Fleet,
) -> None:
    rows = SharedSqlCounters(fleet.installation.parts.database)
    counters = fleet.a_process()
    await rows.commit(fleet.acme, _keys(1), 100, fleet.now())
    await counters.bring_in(fleet.acme, fleet.now())
    fleet.server.flushall()

    await counters.tend(fleet.now() + THE_ROWS_HOLD)

    assert await _counted(counters, fleet) == (1, 100)


async def test_what_the_rows_held_is_counted_once_though_it_is_stored_at_that_moment(
    fleet: Fleet,
) -> None:
    (key,) = _keys(1)
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.commit(fleet.acme, [key], len(a_mail()), fleet.now())
    store = partial(deliver, fleet.installation, fleet.acme, transaction=key[0])
    watched = Watched(fleet.installation.parts.database, before_writing=store)

    assert await _counted(fleet.a_process(database=watched), fleet) == (1, len(a_mail()))
    await _hour_passes(fleet)
    assert await _counted(fleet.a_process(), fleet) == (1, len(a_mail()))


async def test_what_the_rows_held_is_counted_once_though_the_rows_can_only_be_read(
    fleet: Fleet,
) -> None:
    """Or whoever counts it dies before they are written; who asks is answered meanwhile."""

    async def fail() -> None:
        raise Unavailable("Nothing can be written.")

    (key,) = _keys(1)
    await fleet.a_process().usage(fleet.acme, fleet.now())
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.commit(fleet.acme, [key], 100, fleet.now())
    reading = Watched(fleet.installation.parts.database, before_writing=fail)
    assert await _counted(fleet.a_process(database=reading), fleet) == (1, 100)

    assert await _counted(fleet.a_process(), fleet) == (1, 100)
    await _hour_passes(fleet)
    assert await _counted(fleet.a_process(), fleet) == (1, 100)


async def test_what_was_counted_goes_from_the_rows_when_they_can_be_written_again(
    fleet: Fleet,
) -> None:
    broken = asyncio.Event()
    broken.set()

    async def fail() -> None:
        if broken.is_set():
            raise Unavailable("Nothing can be written.")

    await fleet.a_process().usage(fleet.acme, fleet.now())
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.commit(fleet.acme, [_keys(1)[0]], 100, fleet.now())
    watched = Watched(fleet.installation.parts.database, before_writing=fail)
    counters = fleet.a_process(database=watched)
    assert await _counted(counters, fleet) == (1, 100)

    with pytest.raises(Unavailable):
        await counters.tend(fleet.now() + THE_ROWS_HOLD)
    assert (await rows.usage(fleet.acme, fleet.now())).emails == 1, "held there still"
    broken.clear()
    await counters.tend(fleet.now() + THE_ROWS_HOLD)

    assert (await rows.usage(fleet.acme, fleet.now())).emails == 0
    assert await _counted(counters, fleet) == (1, 100)


@pytest.mark.parametrize("verb", ["usage", "bring_in"])
async def test_who_fills_takes_no_promise_from_who_still_asks_the_rows(
    fleet: Fleet, verb: str
) -> None:
    """A process that starts, and one that finds Redis back before another does."""
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.reserve(fleet.acme, A_HUNDRED, _keys(1)[0], 10, fleet.now())

    counters = fleet.a_process()
    await getattr(counters, verb)(fleet.acme, fleet.now())

    for asked in (counters, rows):
        assert (await asked.usage(fleet.acme, fleet.now())).reserved_bytes == 10


@pytest.mark.parametrize("redis_is_back", [True, False])
async def test_what_the_rows_promised_is_counted_once_though_it_is_stored_before_it_is_committed(
    fleet: Fleet, *, redis_is_back: bool
) -> None:
    (key,) = _keys(1)
    await fleet.a_process().usage(fleet.acme, fleet.now())
    rows = SharedSqlCounters(fleet.installation.parts.database)
    await rows.reserve(fleet.acme, A_HUNDRED, key, 10, fleet.now())
    counters = fleet.a_process() if redis_is_back else rows
    assert (await counters.usage(fleet.acme, fleet.now())).reserved_emails == 1
    await deliver(fleet.installation, fleet.acme, transaction=key[0])
    await counters.commit(fleet.acme, [key], len(a_mail()), fleet.now())

    for _ in range(2):
        await _hour_passes(fleet)
        assert await _counted(fleet.a_process(), fleet) == (1, len(a_mail()))


WAYS = pytest.mark.parametrize("failure", [_killed, _paused])


@WAYS
async def test_mail_that_was_stored_before_redis_was_lost_counts_once(
    fleet: Fleet, failure: Callable[[Fleet], Callable[[], None]]
) -> None:
    """Ten are stored before, ten after one process has gone over, ten never; twenty are left."""
    counters, limits = fleet.with_standby(), Limits(emails_per_month=50)
    keys = _keys(30)
    for key in keys:
        assert await _reserved(counters, fleet.acme, limits, key, fleet.now())
        await counters.commit(fleet.acme, [key], len(a_mail()), fleet.now())
    for key in keys[:10]:
        await deliver(fleet.installation, fleet.acme, transaction=key[0])

    recover = await asyncio.to_thread(failure, fleet)
    usage = await _told(lambda: counters.usage(fleet.acme, fleet.now()))
    assert usage.emails + usage.reserved_emails == 30
    usage = await counters.usage(fleet.acme, fleet.now() + timedelta(hours=5))
    assert usage.emails == 30, "what nobody stores for hours counts still"
    for key in keys[10:20]:
        await deliver(fleet.installation, fleet.acme, transaction=key[0])
    granted = [
        await _reserved(counters, fleet.acme, limits, key, fleet.now())
        for key in [*_keys(30, "while"), *keys]
    ]
    assert (sum(granted[:30]), sum(granted[30:])) == (20, 30)
    await asyncio.to_thread(recover)
    await _redis_is_asked_again(fleet)

    usage = await counters.usage(fleet.acme, fleet.now())
    assert usage.emails + usage.reserved_emails == 50
    assert not await _reserved(counters, fleet.acme, limits, _keys(1, "after")[0], fleet.now())
    await counters.close()


@WAYS
@pytest.mark.parametrize("order", [1, -1])
async def test_mail_of_a_relay_counts_once_however_its_processes_go_over(
    fleet: Fleet, failure: Callable[[Fleet], Callable[[], None]], order: int
) -> None:
    """Promised by one process under one name, counted by another under the next."""
    policy, ingest = fleet.with_standby(), fleet.with_standby()
    for number in range(20):
        held, asked = (f"6d65.{number}", QA), (f"4XyzQ{number}", QA)
        assert await _reserved(policy, fleet.acme, A_HUNDRED, held, fleet.now())
        await policy.rename(held[0], asked[0], fleet.now())
        assert await _reserved(ingest, fleet.acme, A_HUNDRED, asked, fleet.now())
        await ingest.commit(fleet.acme, [asked], len(a_mail()), fleet.now())
        if number < 10:
            await deliver(fleet.installation, fleet.acme, transaction=asked[0])

    recover = await asyncio.to_thread(failure, fleet)
    counted = []
    for counters in (policy, ingest)[::order]:
        usage = await _told(lambda each=counters: each.usage(fleet.acme, fleet.now()))  # type: ignore[misc]
        counted.append(usage.emails + usage.reserved_emails)
    for number in range(10, 20):
        await deliver(fleet.installation, fleet.acme, transaction=f"4XyzQ{number}")
    usage = await policy.usage(fleet.acme, fleet.now())
    assert [*counted, usage.emails, usage.reserved_emails] == [20, 20, 20, 0]
    await asyncio.to_thread(recover)
    await _redis_is_asked_again(fleet)

    for counters in (policy, ingest)[::order]:
        usage = await counters.usage(fleet.acme, fleet.now())
        assert (usage.emails, usage.reserved_emails) == (20, 0)
        await counters.close()


@WAYS
async def test_what_is_given_back_while_redis_is_down_is_free_when_it_is_back(
    fleet: Fleet, failure: Callable[[Fleet], Callable[[], None]]
) -> None:
    counters = fleet.with_standby()
    keys = _keys(10)
    for key in keys:
        assert await _reserved(counters, fleet.acme, A_HUNDRED, key, fleet.now())

    recover = await asyncio.to_thread(failure, fleet)
    await counters.release(fleet.acme, keys[:6])
    assert (await _told(lambda: counters.usage(fleet.acme, fleet.now()))).reserved_emails == 4
    assert await _reserved(counters, fleet.acme, A_HUNDRED, keys[0], fleet.now())
    await asyncio.to_thread(recover)
    await _redis_is_asked_again(fleet)

    assert (await counters.usage(fleet.acme, fleet.now())).reserved_emails == 5
    await counters.close()


async def test_one_process_that_is_not_answered_once_decides_nothing_alone(
    fleet: Fleet, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis stops for a moment, again and again, while eight processes ask for more than there is.

    Where it stops longer than two answers may take, askers are told to come again, and do. All of
    it takes four times as long as in use: a loaded machine stops for as long as three answers may
    take there.
    """
    slower = 4
    monkeypatch.setattr(
        standby_counters, "_AGAIN_SECONDS", standby_counters._AGAIN_SECONDS * slower
    )
    processes = [fleet.with_standby(patience=SECONDS * slower) for _ in range(8)]
    untold = 0

    async def ask(number: int, key: Key) -> bool:
        nonlocal untold
        await asyncio.sleep(chance.random() * 9)
        for _ in range(20):
            try:
                counters = processes[number % 8]
                return (await counters.reserve(fleet.acme, A_HUNDRED, key, 1, fleet.now())).accepted
            except Unavailable:
                untold += 1
                await asyncio.sleep(0.2)
        raise AssertionError("never told")

    asked = [asyncio.create_task(ask(n, key)) for n, key in enumerate(_keys(200))]
    for stopped in (350, 450, 650):
        pause = ("CLIENT", "PAUSE", stopped * slower, "ALL")
        await asyncio.to_thread(fleet.server.execute_command, *pause)
        await asyncio.sleep(3)

    assert sum(await asyncio.gather(*asked)) == LIMIT
    for counters in processes:
        await counters.close()


async def test_a_question_that_is_not_answered_is_not_decided_by_the_rows_and_holds_nothing(
    fleet: Fleet,
) -> None:
    """Redis grants it when it goes on, to nobody who waits; then it is given back."""
    counters, other = fleet.with_standby(), fleet.a_process()
    assert await _reserved(counters, fleet.acme, A_HUNDRED, _keys(1)[0], fleet.now())
    fleet.instance.pause("redis")
    begun = time.monotonic()

    with pytest.raises(Unavailable):
        await counters.reserve(fleet.acme, A_HUNDRED, _keys(1, "other")[0], 1, fleet.now())

    assert time.monotonic() - begun < _PAUSE_SECONDS / 2
    rows = SharedSqlCounters(fleet.installation.parts.database)
    assert (await rows.usage(fleet.acme, fleet.now())).reserved_emails == 0
    fleet.instance.resume("redis")
    async with asyncio.timeout(10):
        while (await other.usage(fleet.acme, fleet.now())).reserved_emails != 1:
            await asyncio.sleep(0.05)
    await counters.close()
