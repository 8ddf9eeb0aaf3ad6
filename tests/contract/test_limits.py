"""What `ports.limits` promises, of every implementation."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import mysql
import services
from mailtape.domain.errors import TooMany
from mailtape.ports.limits import FailureLimit, FailureLimits
from mailtape.rows import failures
from mailtape.rows.database import Database
from mailtape.rows.sqlite_database import SqliteDatabase
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.redis_connection import RedisConnection
from mailtape.stores.redis_limits import RedisFailureLimits, StandbyFailureLimits
from mailtape.stores.sql_limits import SqlFailureLimits

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ADA = FailureLimit("sign-in", "ada@example.org", most=3, window=timedelta(minutes=15))


@pytest.fixture
async def database(migrated_rows: Path, tmp_path: Path) -> AsyncIterator[Database]:
    path = tmp_path / "rows.sqlite3"
    path.write_bytes(migrated_rows.read_bytes())
    writing = WritingThread()
    database = SqliteDatabase(path, writing)
    yield database
    writing.stop()
    database.close()


@pytest.fixture(
    params=[
        "rows",
        pytest.param("mysql", marks=pytest.mark.services),
        pytest.param("redis", marks=pytest.mark.services),
        pytest.param("standby", marks=pytest.mark.services),
    ]
)
async def limits(
    request: pytest.FixtureRequest, database: Database
) -> AsyncIterator[FailureLimits]:
    if request.param == "mysql":
        url = request.getfixturevalue("migrated_mysql")
        async with mysql.rows_of(url, answer_seconds=60) as rows:
            yield SqlFailureLimits(rows)
        return
    in_rows = SqlFailureLimits(database)
    if request.param == "rows":
        yield in_rows
        return
    connection = RedisConnection(services.variables("redis")["REDIS_URL"], seconds=10.0)
    with services.own_keys() as prefix:
        in_redis = RedisFailureLimits(connection, prefix)
        standby = StandbyFailureLimits(in_redis, in_rows, connection)
        yield in_redis if request.param == "redis" else standby
        await connection.close()


@pytest.fixture
def limits_in_rows(database: Database) -> SqlFailureLimits:
    return SqlFailureLimits(database)


async def _refused(limits: FailureLimits, limit: FailureLimit, now: datetime) -> int | None:
    """Give the seconds to wait; None when there is room."""
    try:
        await limits.check([limit], now)
    except TooMany as refusal:
        return refusal.retry_after
    return None


async def test_bears_so_many_failures_and_no_more(limits: FailureLimits) -> None:
    for _ in range(3):
        assert await _refused(limits, ADA, NOW) is None
        await limits.count([ADA], NOW)

    assert await _refused(limits, ADA, NOW) == 900


async def test_checking_counts_nothing(limits: FailureLimits) -> None:
    for _ in range(10):
        await limits.check([ADA], NOW)


async def test_each_failure_counts_for_the_window_from_its_own_moment(
    limits: FailureLimits,
) -> None:
    for minute in (0, 10, 14):
        await limits.count([ADA], NOW + timedelta(minutes=minute))

    assert await _refused(limits, ADA, NOW + timedelta(minutes=14)) == 60
    assert await _refused(limits, ADA, NOW + timedelta(minutes=15)) is None
    await limits.count([ADA], NOW + timedelta(minutes=15))
    assert await _refused(limits, ADA, NOW + timedelta(minutes=15)) == 600


async def test_subjects_and_kinds_are_apart(limits: FailureLimits) -> None:
    for _ in range(3):
        await limits.count([ADA], NOW)

    bob = dataclasses.replace(ADA, subject="bob@example.org")
    codes = dataclasses.replace(ADA, kind="code")
    assert await _refused(limits, bob, NOW) is None
    assert await _refused(limits, codes, NOW) is None


async def test_one_full_limit_among_many_refuses(limits: FailureLimits) -> None:
    client = FailureLimit("client", "192.0.2.1", most=100, window=timedelta(minutes=15))
    for _ in range(3):
        await limits.count([client, ADA], NOW)

    with pytest.raises(TooMany):
        await limits.check([client, ADA], NOW)
    await limits.check([client], NOW)


async def test_no_failure_is_lost_when_many_are_counted_at_once(limits: FailureLimits) -> None:
    wide = dataclasses.replace(ADA, most=50)

    await asyncio.gather(*(limits.count([wide], NOW) for _ in range(50)))

    assert await _refused(limits, wide, NOW) == 900
    assert await _refused(limits, dataclasses.replace(wide, most=51), NOW) is None


async def test_what_counts_no_longer_is_forgotten_in_the_rows(
    limits_in_rows: SqlFailureLimits, database: Database
) -> None:
    limits = limits_in_rows
    for _ in range(20):
        await limits.count([ADA], NOW)

    await limits.count([ADA], NOW + timedelta(minutes=15))

    assert await database.read(failures.count) == 1


async def test_no_subject_is_kept_in_clear_in_the_rows(
    limits_in_rows: SqlFailureLimits, database: Database, tmp_path: Path
) -> None:
    limits = limits_in_rows
    await limits.count([ADA], NOW)

    kept = b"".join(path.read_bytes() for path in tmp_path.glob("rows.sqlite3*"))
    assert await database.read(failures.count) == 1
    assert b"ada@example.org" not in kept
