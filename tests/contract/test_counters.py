"""What `ports.counters` promises, asked of every implementation."""

import asyncio
import dataclasses
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import mysql
import services
from fakes import a_delivery, an_envelope
from installation import Installation, Installed, open_installation
from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import Reason, Usage
from mailtape.domain.tier import Limits
from mailtape.ports.counters import Counters, Key
from mailtape.stores import sql_counters
from mailtape.stores.redis_connection import RedisConnection
from mailtape.stores.redis_counters import RedisCounters
from mailtape.stores.shared_sql_counters import SharedSqlCounters
from mailtape.stores.sql_counters import SqlCounters
from mailtape.stores.sqlite_queue import Backlog
from mailtape.stores.standby_counters import StandbyCounters
from postroom import QA, a_mail, deliver, deliver_envelope

NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)
only_in_memory = pytest.mark.parametrize("kind", ["memory"], indirect=True)
"""What the one process that owns all remembers; the others keep it where all processes look."""


@pytest.fixture(
    params=[
        "memory",
        "rows",
        pytest.param("mysql", marks=pytest.mark.services),
        pytest.param("redis", marks=pytest.mark.services),
        pytest.param("standby", marks=pytest.mark.services),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def installation(
    kind: str, request: pytest.FixtureRequest, installed: Installed, tmp_path: Path
) -> AsyncIterator[Installation]:
    if kind == "mysql":
        async with (
            mysql.rows_of(request.getfixturevalue("migrated_mysql"), answer_seconds=60) as database,
            open_installation(tmp_path, elsewhere=database) as opened,
        ):
            yield opened
    else:
        async with installed() as opened:
            yield opened


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


@pytest.fixture
async def opened(kind: str, installation: Installation) -> AsyncIterator[Callable[[], Counters]]:
    """Opens counters as another process does; in memory there are but those of one."""
    database = installation.parts.database
    if kind == "memory":
        counters = SqlCounters(database)
        yield lambda: counters
    elif kind in {"rows", "mysql"}:
        yield lambda: SharedSqlCounters(database)
    else:
        redis = RedisConnection(services.variables("redis")["REDIS_URL"], seconds=10.0)
        with services.own_keys() as prefix:
            several: list[RedisCounters] = []

            def open_() -> Counters:
                several.append(RedisCounters(redis, database, prefix, seconds_for_others=0))
                if kind == "redis":
                    return several[-1]
                return StandbyCounters(several[-1], SharedSqlCounters(database), redis)

            yield open_
            for each in several:
                await each.close()
            await redis.close()


@pytest.fixture
def counters(opened: Callable[[], Counters]) -> Counters:
    return opened()


@pytest.fixture
def in_memory(installation: Installation) -> SqlCounters:
    return SqlCounters(installation.parts.database)


def _key(number: int, recipient: str = "a@mail.example.com") -> Key:
    return (f"transaction-{number}", recipient)


async def _nothing_waits() -> set[OrganisationId]:
    return set()


async def _granted(
    counters: Counters, acme: OrganisationId, limits: Limits, keys: list[Key]
) -> set[Key]:
    decisions = await asyncio.gather(
        *(counters.reserve(acme, limits, key, 10, NOW) for key in keys)
    )
    return {key for key, decision in zip(keys, decisions, strict=True) if decision.accepted}


async def test_grants_exactly_the_limit_however_many_ask_at_once(
    opened: Callable[[], Counters], installation: Installation
) -> None:
    counters = opened()
    for run in range(5):
        organisation_id = await installation.an_organisation(f"acme-{run}")
        keys = [_key(n % 60) for n in range(100)]
        random.Random(run).shuffle(keys)

        granted = await _granted(counters, organisation_id, Limits(emails_per_month=40), keys)

        assert len(granted) == 40


async def test_the_same_reservation_is_granted_again_and_counted_once(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1)

    for _ in range(3):
        assert (await counters.reserve(acme, limits, _key(1), 10, NOW)).accepted

    assert (await counters.usage(acme, NOW)).reserved_emails == 1
    assert (await counters.reserve(acme, limits, _key(2), 10, NOW)).reason == Reason.MONTHLY_MAILS


async def test_two_recipients_of_one_transaction_are_two(
    counters: Counters, acme: OrganisationId
) -> None:
    keys = [_key(1, "a@mail.example.com"), _key(1, "b@mail.example.com")]

    assert await _granted(counters, acme, Limits(emails_per_month=1), keys) == {keys[0]}


async def test_a_commit_turns_a_reservation_into_use_once(
    counters: Counters, acme: OrganisationId
) -> None:
    await counters.reserve(acme, Limits(), _key(1), 10, NOW)

    for _ in range(3):
        await counters.commit(acme, [_key(1)], 12, NOW)

    usage = await counters.usage(acme, NOW)
    assert (usage.emails, usage.storage_bytes) == (1, 12)
    assert (usage.reserved_emails, usage.reserved_bytes) == (0, 0)


async def test_a_commit_counts_what_was_never_reserved(
    counters: Counters, acme: OrganisationId
) -> None:
    await counters.commit(acme, [_key(1)], 12, NOW)

    assert (await counters.usage(acme, NOW)).emails == 1


async def test_a_committed_mail_that_is_asked_about_again_is_taken_and_not_counted_again(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1, storage_bytes=12)
    await counters.reserve(acme, limits, _key(1), 10, NOW)
    await counters.commit(acme, [_key(1)], 12, NOW)

    assert (await counters.reserve(acme, limits, _key(1), 10, NOW)).accepted
    assert (await counters.fits(acme, limits, _key(1), 12, NOW)).accepted
    assert (await counters.usage(acme, NOW)).reserved_emails == 0


async def test_released_room_is_granted_to_the_next(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1)
    await counters.reserve(acme, limits, _key(1), 10, NOW)

    await counters.release(acme, [_key(1), _key(9)])

    assert (await counters.reserve(acme, limits, _key(2), 10, NOW)).accepted


async def test_a_reservation_that_nobody_comes_back_for_runs_out(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1)
    await counters.reserve(acme, limits, _key(1), 10, NOW)

    soon = await counters.reserve(acme, limits, _key(2), 10, NOW + timedelta(seconds=599))
    later = await counters.reserve(acme, limits, _key(2), 10, NOW + timedelta(seconds=601))

    assert (soon.accepted, later.accepted) == (False, True)


async def test_what_is_held_anew_is_held_as_long_as_anything(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1)
    await counters.reserve(acme, limits, _key(1), 10, NOW)
    await counters.release(acme, [_key(1)])
    await counters.reserve(acme, limits, _key(1), 10, NOW + timedelta(seconds=500))

    soon = await counters.reserve(acme, limits, _key(2), 10, NOW + timedelta(seconds=1099))
    later = await counters.reserve(acme, limits, _key(2), 10, NOW + timedelta(seconds=1101))

    assert (soon.accepted, later.accepted) == (False, True)


async def test_a_mail_that_took_so_long_that_others_have_its_room_does_not_fit(
    counters: Counters, acme: OrganisationId
) -> None:
    limits, late = Limits(emails_per_month=1), NOW + timedelta(seconds=601)
    await counters.reserve(acme, limits, _key(1), 10, NOW)
    await counters.reserve(acme, limits, _key(2), 10, late)

    assert (await counters.fits(acme, limits, _key(1), 10, late)).reason == Reason.MONTHLY_MAILS
    await counters.release(acme, [_key(2)])
    assert (await counters.fits(acme, limits, _key(1), 10, late)).accepted
    assert (await counters.usage(acme, late)).reserved_emails == 1


@only_in_memory
async def test_those_who_come_and_go_leave_nothing_in_memory(
    counters: Counters, acme: OrganisationId
) -> None:
    async def come_and_go(number: int) -> None:
        await counters.reserve(acme, Limits(emails_per_month=1), _key(number), 10, NOW)
        await counters.release(acme, [_key(number)])

    await come_and_go(0)
    tracemalloc.start()
    try:
        for number in range(10_000):
            await come_and_go(number)
        assert tracemalloc.get_traced_memory()[0] < 100_000, "octets, of a million otherwise"
    finally:
        tracemalloc.stop()


async def test_a_late_commit_counts_all_the_same(counters: Counters, acme: OrganisationId) -> None:
    limits = Limits(emails_per_month=1)
    await counters.reserve(acme, limits, _key(1), 10, NOW)

    await counters.commit(acme, [_key(1)], 10, NOW + timedelta(hours=1))

    late = NOW + timedelta(hours=1)
    assert (await counters.reserve(acme, limits, _key(2), 10, late)).reason == Reason.MONTHLY_MAILS


async def test_what_is_released_and_never_was_is_no_matter(
    counters: Counters, acme: OrganisationId
) -> None:
    await counters.release(acme, [_key(1)])
    await counters.commit(acme, [_key(2)], 10, NOW)

    await counters.release(acme, [_key(2)])

    usage = await counters.usage(acme, NOW)
    assert (usage.emails, usage.reserved_emails) == (1, 0)


async def test_a_transaction_is_found_by_the_name_it_became(
    opened: Callable[[], Counters], acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1, storage_bytes=100)
    policy, ingest = opened(), opened()
    held, asked = ("6d65.0", "a@mail.example.com"), ("4XyzQ1Wk", "a@mail.example.com")
    await policy.reserve(acme, limits, held, 60, NOW)

    await policy.rename("6d65.0", "4XyzQ1Wk", NOW)

    assert (await ingest.reserve(acme, limits, asked, 60, NOW)).accepted
    assert (await ingest.fits(acme, limits, asked, 100, NOW)).accepted
    await ingest.commit(acme, [asked], 70, NOW)
    await ingest.commit(acme, [asked], 70, NOW)
    for counters in (policy, ingest):
        assert (await counters.reserve(acme, limits, held, 60, NOW)).accepted
        assert (await counters.reserve(acme, limits, asked, 60, NOW)).accepted
        usage = (await counters.usage(acme, NOW))._replace(arrival_us=0)
        assert usage == Usage(emails=1, storage_bytes=70)


async def test_what_is_held_under_the_first_name_is_released_by_the_second(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1)
    await counters.reserve(acme, limits, ("6d65.0", "a@mail.example.com"), 60, NOW)
    await counters.rename("6d65.0", "4XyzQ1Wk", NOW)

    await counters.release(acme, [("4XyzQ1Wk", "a@mail.example.com")])

    assert (await counters.usage(acme, NOW)).reserved_emails == 0


async def test_the_rate_is_that_of_the_organisation_not_of_a_process(
    opened: Callable[[], Counters], acme: OrganisationId
) -> None:
    limits = Limits(messages_per_minute=60)
    one, other = opened(), opened()

    granted = [
        (await counters.reserve(acme, limits, _key(n), 1, NOW + timedelta(milliseconds=n))).accepted
        for n, counters in enumerate([one, other] * 31)
    ]

    assert granted == [True] * 60 + [False] * 2
    assert (await one.reserve(acme, limits, _key(90), 1, NOW + timedelta(seconds=1))).accepted


@pytest.mark.parametrize(
    "kind", ["rows", pytest.param("mysql", marks=pytest.mark.services)], indirect=True
)
async def test_what_is_committed_in_rows_goes_over_to_the_message_when_it_is_stored(
    installation: Installation, acme: OrganisationId
) -> None:
    counters = SharedSqlCounters(installation.parts.database)
    now = installation.clock()
    key = ("transaction-1", QA)
    await counters.reserve(acme, Limits(), key, 10, now)
    await counters.commit(acme, [key], len(a_mail()), now)
    before = await counters.usage(acme, now)

    await deliver(installation, acme, transaction="transaction-1")

    assert await counters.usage(acme, now) == before
    assert (before.emails, before.reserved_emails) == (1, 0)


async def test_a_mail_fits_beside_what_others_hold_and_not_beside_itself(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(storage_bytes=100)
    await counters.reserve(acme, limits, _key(1), 50, NOW)
    await counters.reserve(acme, limits, _key(2), 30, NOW)

    assert (await counters.fits(acme, limits, _key(1), 70, NOW)).accepted
    assert (await counters.fits(acme, limits, _key(1), 71, NOW)).reason == Reason.STORAGE


async def test_a_mail_that_fits_holds_its_true_size_until_it_is_counted(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(storage_bytes=100)
    for number in (1, 2):
        assert (await counters.reserve(acme, limits, _key(number), 0, NOW)).accepted

    assert (await counters.fits(acme, limits, _key(1), 60, NOW)).accepted

    assert (await counters.usage(acme, NOW)).reserved_bytes == 60
    assert (await counters.fits(acme, limits, _key(2), 41, NOW)).reason == Reason.STORAGE
    assert (await counters.fits(acme, limits, _key(2), 40, NOW)).accepted
    await counters.release(acme, [_key(1)])
    assert (await counters.usage(acme, NOW)).reserved_bytes == 40


async def test_the_true_size_is_held_for_every_process(
    opened: Callable[[], Counters], acme: OrganisationId
) -> None:
    limits = Limits(storage_bytes=100)
    policy, ingest, other = opened(), opened(), opened()
    await policy.reserve(acme, limits, _key(1), 90, NOW)

    assert (await ingest.fits(acme, limits, _key(1), 60, NOW)).accepted
    assert (await ingest.fits(acme, limits, _key(1), 60, NOW)).accepted

    assert (await other.usage(acme, NOW)).reserved_bytes == 60
    assert (await other.reserve(acme, limits, _key(2), 41, NOW)).reason == Reason.STORAGE
    assert (await other.reserve(acme, limits, _key(2), 40, NOW)).accepted
    await ingest.commit(acme, [_key(1)], 60, NOW)
    usage = await policy.usage(acme, NOW)
    assert (usage.storage_bytes, usage.reserved_bytes, usage.reserved_emails) == (60, 40, 1)


async def test_of_mails_that_are_here_at_once_no_more_fit_than_there_is_room_for(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(storage_bytes=100)
    keys = [_key(number) for number in range(20)]
    for key in keys:
        await counters.reserve(acme, limits, key, 0, NOW)

    decisions = await asyncio.gather(
        *(counters.fits(acme, limits, key, 30, NOW) for key in [*keys, *keys])
    )

    assert [each.accepted for each in decisions[:20]] == [each.accepted for each in decisions[20:]]
    assert sum(each.accepted for each in decisions) == 2 * 3
    usage = await counters.usage(acme, NOW)
    assert (usage.reserved_emails, usage.reserved_bytes) == (20, 90)


async def test_a_mail_that_nothing_is_held_for_is_decided_on_as_a_new_one(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(storage_bytes=100, message_bytes=90, messages_per_minute=2)

    assert (await counters.fits(acme, limits, _key(1), 91, NOW)).reason == Reason.MESSAGE_SIZE
    assert (await counters.fits(acme, limits, _key(1), 60, NOW)).accepted
    assert (await counters.fits(acme, limits, _key(1), 70, NOW)).accepted
    assert (await counters.fits(acme, limits, _key(2), 31, NOW)).reason == Reason.STORAGE
    assert (await counters.fits(acme, limits, _key(2), 30, NOW)).accepted
    await counters.release(acme, [_key(2)])
    assert (await counters.fits(acme, limits, _key(3), 1, NOW)).reason == Reason.RATE

    usage = await counters.usage(acme, NOW)
    assert (usage.reserved_emails, usage.reserved_bytes) == (1, 70)


async def test_what_is_given_back_under_its_second_name_is_decided_on_anew(
    counters: Counters, acme: OrganisationId
) -> None:
    limits = Limits(emails_per_month=1, storage_bytes=100)
    asked = ("4XyzQ1Wk", "a@mail.example.com")
    await counters.reserve(acme, limits, ("6d65.0", "a@mail.example.com"), 0, NOW)
    await counters.rename("6d65.0", "4XyzQ1Wk", NOW)
    await counters.reserve(acme, limits, asked, 0, NOW)
    assert (await counters.fits(acme, limits, asked, 101, NOW)).reason == Reason.STORAGE
    await counters.release(acme, [asked])
    assert (await counters.reserve(acme, limits, _key(2), 10, NOW)).accepted

    assert (await counters.fits(acme, limits, asked, 10, NOW)).reason == Reason.MONTHLY_MAILS
    assert (await counters.reserve(acme, limits, asked, 10, NOW)).reason == Reason.MONTHLY_MAILS


async def test_a_new_month_begins_at_nothing_but_what_is_kept(
    counters: Counters, acme: OrganisationId
) -> None:
    await counters.commit(acme, [_key(1)], 12, NOW)

    usage = await counters.usage(acme, NOW + timedelta(days=30))

    assert (usage.emails, usage.storage_bytes) == (0, 12)


async def test_begins_with_what_the_rows_say(
    installation: Installation, counters: Counters, acme: OrganisationId
) -> None:
    await deliver(installation, acme)

    usage = await counters.usage(acme, installation.clock())

    assert (usage.emails, usage.storage_bytes) == (1, len(a_mail()))


@only_in_memory
async def test_memory_counts_what_waited_in_the_queue_at_the_start(
    installation: Installation, acme: OrganisationId
) -> None:
    counters = SqlCounters(installation.parts.database, {acme: Backlog(3, 300)})

    await counters.start(NOW)

    usage = await counters.usage(acme, NOW)
    assert (usage.emails, usage.storage_bytes) == (3, 300)


@only_in_memory
async def test_counts_once_what_was_stored_and_not_yet_taken_from_the_queue(
    installation: Installation, acme: OrganisationId
) -> None:
    raw, now = a_mail(), installation.clock()
    both = tuple(a_delivery(f"{name}@mail.example.com", acme) for name in "ab")
    in_hand, waiting = an_envelope(raw, deliveries=both), an_envelope(raw, deliveries=both)
    for envelope in (in_hand, waiting):
        await installation.parts.queue.put(envelope, raw)
    stored = dataclasses.replace(in_hand, deliveries=both[:1])  # then the process was killed
    await deliver_envelope(installation, stored, raw)

    counters = SqlCounters(installation.parts.database, await installation.parts.queue.backlog())
    await counters.start(now)

    usage = await counters.usage(acme, now)
    assert (usage.emails, usage.storage_bytes) == (4, 4 * len(raw))


@only_in_memory
async def test_knows_what_a_relay_had_handed_over_before_the_start(
    installation: Installation, acme: OrganisationId
) -> None:
    raw, now = a_mail(), installation.clock()
    stored = an_envelope(raw, deliveries=(a_delivery("a@mail.example.com", acme),), queue_id="4A1")
    await deliver_envelope(installation, stored, raw)
    waiting = Backlog(1, len(raw), [("4A2", "a@mail.example.com")])
    counters = SqlCounters(installation.parts.database, {acme: waiting})
    limits = Limits(emails_per_month=2, storage_bytes=2 * len(raw))

    for key in (("4A1", "a@mail.example.com"), ("4A2", "a@mail.example.com")):
        assert (await counters.reserve(acme, limits, key, len(raw), now)).accepted
        assert (await counters.fits(acme, limits, key, len(raw), now)).accepted
        await counters.commit(acme, [key], len(raw), now)
    for key in (("4A3", "a@mail.example.com"), ("4A1", "b@mail.example.com")):
        assert (await counters.reserve(acme, limits, key, 1, now)).reason == Reason.MONTHLY_MAILS

    usage = await counters.usage(acme, now)
    assert (usage.emails, usage.storage_bytes, usage.reserved_emails) == (2, 2 * len(raw), 0)


@only_in_memory
async def test_reconciling_forgets_nothing_that_is_accepted_after_the_queue_was_seen_empty(
    installation: Installation, acme: OrganisationId
) -> None:
    now, database = installation.clock(), installation.parts.database
    other = await installation.an_organisation("other")
    counters = SqlCounters(database)
    for organisation_id in (acme, other):
        await counters.usage(organisation_id, now)

    async def nothing_waited() -> set[OrganisationId]:
        for organisation_id in (acme, other):  # and this one waits in the queue
            await counters.commit(organisation_id, [_key(1)], 100, now)
        return set()

    await counters.reconcile(now, nothing_waited)

    for organisation_id in (acme, other):
        assert (await counters.usage(organisation_id, now)).emails == 1


@only_in_memory
async def test_reconciling_takes_the_rows_word_for_it(
    installation: Installation, in_memory: SqlCounters, acme: OrganisationId
) -> None:
    now = installation.clock()
    await in_memory.commit(acme, [_key(1), _key(2)], 100, now)
    await deliver(installation, acme)

    assert await in_memory.reconcile(now, _nothing_waits) == 1
    assert await in_memory.reconcile(now, _nothing_waits) == 0

    usage = await in_memory.usage(acme, now)
    assert (usage.emails, usage.storage_bytes) == (1, len(a_mail()))


@only_in_memory
async def test_reconciling_spares_whose_mail_waits_and_nobody_else(
    installation: Installation, in_memory: SqlCounters, acme: OrganisationId
) -> None:
    now = installation.clock()
    busy = await installation.an_organisation("busy")
    for organisation_id in (acme, busy):
        await in_memory.commit(organisation_id, [_key(1)], 100, now)

    async def waiting() -> set[OrganisationId]:
        return {busy}

    assert await in_memory.reconcile(now, waiting) == 1

    assert [(await in_memory.usage(each, now)).emails for each in (acme, busy)] == [0, 1]


@only_in_memory
async def test_reconciling_goes_on_for_who_has_had_no_mail_since_last_month(
    in_memory: SqlCounters, acme: OrganisationId
) -> None:
    next_month = NOW + timedelta(days=30)
    await in_memory.commit(acme, [_key(1)], 100, NOW)  # and then it was deleted

    assert await in_memory.reconcile(next_month, _nothing_waits) == 1

    usage = await in_memory.usage(acme, next_month)
    assert (usage.emails, usage.storage_bytes) == (0, 0)


@only_in_memory
async def test_nothing_is_kept_for_ever_of_whom_nobody_asks_about(
    installation: Installation, in_memory: SqlCounters, acme: OrganisationId
) -> None:
    now = installation.clock()
    await in_memory.reserve(acme, Limits(), _key(1), 10, now)
    await in_memory.commit(acme, [_key(2)], 10, now)

    await in_memory.reconcile(now + timedelta(hours=2), _nothing_waits)

    account = in_memory._accounts[acme]
    kept = (account.reserved, account.committed, account.forgetting)
    assert [len(each) for each in kept] == [0, 0, 0]


@only_in_memory
async def test_no_more_than_so_many_are_remembered(
    in_memory: SqlCounters, acme: OrganisationId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_counters, "_MOST_REMEMBERED", 10)

    await in_memory.commit(acme, [_key(number) for number in range(25)], 1, NOW)

    account = in_memory._accounts[acme]
    assert list(account.committed) == [_key(number) for number in range(15, 25)]
    assert len(account.forgetting) == 10
