"""What the rows say when their server hangs, dies or has no room: soon, and the same every time."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import URL, text
from sqlalchemy import exc as sql_errors

import mysql
import services
from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.domain.tier import FREE, UNLIMITED
from mailtape.rows import diagnosis, mysql_schema, tiers
from mailtape.rows.database import Session
from mailtape.rows.mysql_database import MysqlDatabase
from services import Instance

pytestmark = [pytest.mark.services, pytest.mark.e2e]

ANSWER_SECONDS = 2.0
SOON = ANSWER_SECONDS + 3
"""The answer's time, a second to throw a connection away, and a busy machine."""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with services.running("mysql") as started:
        yield started


@pytest.fixture(scope="module")
def url(instance: Instance) -> URL:
    url = mysql.url_of(instance.variables())
    mysql_schema.migrate(url)
    return url


@pytest.fixture
async def database(url: URL) -> AsyncIterator[MysqlDatabase]:
    opened = MysqlDatabase(
        url, connections=4, answer_seconds=ANSWER_SECONDS, bulk_seconds=ANSWER_SECONDS
    )
    yield opened
    await opened.close()


def _one(session: Session) -> int:
    return session.execute(text("SELECT 1")).scalar_one()


async def test_a_paused_server_is_unavailable_soon_and_works_when_it_goes_on(
    instance: Instance, database: MysqlDatabase
) -> None:
    assert await database.read(_one) == 1  # connections that are open already
    await database.write(tiers.ensure, FREE)
    instance.pause("mysql")
    try:
        began = time.monotonic()
        # More than there are connections: those who wait for one are told as soon.
        answers = await asyncio.gather(
            *(database.read(_one) for _ in range(6)),
            *(database.write(tiers.ensure, UNLIMITED) for _ in range(3)),
            *(database.write_bulk(tiers.ensure, UNLIMITED) for _ in range(1)),
            return_exceptions=True,
        )
        took = time.monotonic() - began
    finally:
        instance.resume("mysql")

    assert {type(answer) for answer in answers} == {Unavailable}
    assert took < SOON
    assert [await database.read(_one) for _ in range(8)] == [1] * 8
    await database.write(tiers.ensure, UNLIMITED)
    assert await database.read(tiers.find, "unlimited") == UNLIMITED


async def test_who_stops_waiting_for_a_paused_server_leaves_it_no_connection_for_ever(
    instance: Instance, database: MysqlDatabase
) -> None:
    assert await database.read(_one) == 1
    instance.pause("mysql")
    try:
        for _ in range(6):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await database.read(_one)
        assert database._under_way
        async with asyncio.timeout(SOON):
            while database._under_way:
                await asyncio.sleep(0.05)
    finally:
        instance.resume("mysql")

    assert [await database.read(_one) for _ in range(8)] == [1] * 8


async def test_a_killed_server_is_unavailable_and_the_next_one_is_found(
    instance: Instance, database: MysqlDatabase, url: URL
) -> None:
    await database.write(tiers.ensure, FREE)
    assert await database.read(_one) == 1
    instance.kill("mysql")
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await database.read(_one)
        with pytest.raises(Unavailable):
            await database.write(tiers.ensure, FREE)
    with pytest.raises(Unavailable):
        await asyncio.to_thread(mysql_schema.state, url)
    assert time.monotonic() - began < SOON

    await asyncio.to_thread(instance.start, "mysql")

    assert await database.read(tiers.find, "free") == FREE


async def test_connections_that_a_restart_closed_are_replaced_unnoticed(
    instance: Instance, database: MysqlDatabase
) -> None:
    await asyncio.gather(*(database.read(_one) for _ in range(4)))
    await database.write(tiers.ensure, FREE)
    await asyncio.to_thread(instance.stop, "mysql")
    await asyncio.to_thread(instance.start, "mysql")

    assert [await database.read(_one) for _ in range(4)] == [1] * 4
    await database.write(tiers.ensure, UNLIMITED)


async def test_a_table_without_room_is_a_full_store(database: MysqlDatabase) -> None:
    def fill(session: Session) -> None:
        session.execute(text("SET SESSION max_heap_table_size = 16384"))
        session.execute(text("CREATE TEMPORARY TABLE small (filler CHAR(200)) ENGINE = MEMORY"))
        try:
            for _ in range(1000):
                session.execute(text("INSERT INTO small VALUES ('x')"))
        finally:
            session.execute(text("DROP TEMPORARY TABLE small"))

    with pytest.raises(StoreFull):
        await database.write(fill)


async def test_a_server_with_no_connection_left_is_unavailable(url: URL) -> None:
    narrow = _other_user(url, "WITH MAX_USER_CONNECTIONS 1")
    database = MysqlDatabase(narrow, connections=4)
    with mysql.connected(narrow), pytest.raises(Unavailable):
        await database.read(_one)

    assert await database.read(_one) == 1
    await database.close()


@pytest.mark.parametrize("so", ["ACCOUNT LOCK", "PASSWORD EXPIRE"])
async def test_a_server_that_lets_its_user_in_no_more_is_unavailable(url: URL, so: str) -> None:
    """What is waiting must wait, and not be taken for what cannot be stored."""
    database = MysqlDatabase(_other_user(url, so), connections=4)
    with pytest.raises(Unavailable) as refused:
        await database.read(_one)
    await database.close()

    assert "DB_USER" in (diagnosis.explain(refused.value) or "")


def _other_user(url: URL, options: str) -> URL:
    with mysql.connected(url) as connection:
        connection.execute(text("DROP USER IF EXISTS other@127.0.0.1"))
        connection.execute(text(f"CREATE USER other@127.0.0.1 IDENTIFIED BY 'other' {options}"))
        connection.execute(text(f"GRANT ALL ON {url.database}.* TO other@127.0.0.1"))
    return url.set(username="other", password="other")


async def test_a_bug_stays_a_bug(database: MysqlDatabase) -> None:
    with pytest.raises(sql_errors.DBAPIError, match="no_such_column"):
        await database.read(lambda s: s.execute(text("SELECT no_such_column FROM tiers")))
    with pytest.raises(sql_errors.DataError, match="Data too long"):
        await database.write(
            lambda s: s.execute(
                text("INSERT INTO tiers (name, limits, features) VALUES (:n, '{}', '[]')"),
                {"n": "n" * 65},
            )
        )
    with pytest.raises(sql_errors.IntegrityError, match="Duplicate entry"):
        await database.write(
            lambda s: s.execute(
                text(
                    "INSERT INTO tiers (name, limits, features)"
                    " VALUES ('twice', '{}', '[]'), ('twice', '{}', '[]')"
                )
            )
        )


async def test_two_that_wait_for_each_other_both_get_through(database: MysqlDatabase) -> None:
    for name in ("one", "other"):
        await database.write(tiers.ensure, replace(FREE, name=name))
    tries: list[str] = []

    def lock(session: Session, names: list[str]) -> None:
        tries.append(names[0])
        for name in names:
            session.execute(
                text("UPDATE tiers SET features = '[\"api\"]', limits = :l WHERE name = :n"),
                {"n": name, "l": f'{{"members": {len(tries)}}}'},
            )
            session.execute(text("SELECT sleep(0.3)"))

    await asyncio.gather(
        database.write(lock, ["one", "other"]), database.write(lock, ["other", "one"])
    )

    assert len(tries) > 2  # one of them was undone and came again


async def test_whoever_goes_away_leaves_no_conversation_half_read(database: MysqlDatabase) -> None:
    def slow(session: Session, answer: int) -> int:
        session.execute(text("SELECT sleep(0.05)"))
        return session.execute(text("SELECT :a"), {"a": answer}).scalar_one()

    for delay in (0.0, 0.001, 0.02, 0.04, 0.06, 0.1):
        gone = [asyncio.create_task(database.read(slow, -1)) for _ in range(3)]
        gone += [asyncio.create_task(database.write(slow, -1)) for _ in range(2)]
        await asyncio.sleep(delay)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert [await database.read(slow, number) for number in range(4)] == [0, 1, 2, 3]
    assert await database.write(slow, 7) == 7
