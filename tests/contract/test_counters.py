"""What `ports.counters` promises, asked of every implementation."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import mysql
import services
from installation import Installation, Installed, open_installation
from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import Reason, Usage
from mailtape.domain.tier import Limits
from mailtape.ports.counters import Counters, Key
from mailtape.stores.redis_connection import RedisConnection
from mailtape.stores.redis_counters import RedisCounters
from mailtape.stores.shared_sql_counters import SharedSqlCounters
from mailtape.stores.sql_counters import SqlCounters
from mailtape.stores.standby_counters import StandbyCounters
from postroom import QA, a_mail, deliver

NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)


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
            mysql.rows_of(request.getfixturevalue("migrated_mysql")) as database,
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
        redis = RedisConnection(services.variables("redis")["REDIS_URL"])
        with services.own_keys() as prefix:
            several: list[RedisCounters] = []

            def open_() -> Counters:
                several.append(RedisCounters(redis, database, prefix))
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
        usage = replace(await counters.usage(acme, NOW), arrival_us=0)
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


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_memory_counts_what_waited_in_the_queue_at_the_start(
    installation: Installation, acme: OrganisationId
) -> None:
    counters = SqlCounters(installation.parts.database, {acme: (3, 300)})

    await counters.start(NOW)

    usage = await counters.usage(acme, NOW)
    assert (usage.emails, usage.storage_bytes) == (3, 300)


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_reconciling_takes_the_rows_word_for_it(
    installation: Installation, in_memory: SqlCounters, acme: OrganisationId
) -> None:
    counters = in_memory
    now = installation.clock()
    await counters.commit(acme, [_key(1), _key(2)], 100, now)
    await deliver(installation, acme)

    assert await counters.reconcile(now) == 1
    assert await counters.reconcile(now) == 0

    usage = await counters.usage(acme, now)
    assert (usage.emails, usage.storage_bytes) == (1, len(a_mail()))
