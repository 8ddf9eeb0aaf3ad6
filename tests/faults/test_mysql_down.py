"""What the rows say when their server hangs, dies or has no room: soon, and the same every time."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text
from sqlalchemy import exc as sql_errors
from structlog.testing import capture_logs

import mysql
import services
from embedded import open_stores
from fakes import a_delivery, an_envelope, an_organisation_id
from mailtape import outages
from mailtape.data_folder import DataFolder
from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.query import MessageQuery
from mailtape.domain.tier import FREE, UNLIMITED
from mailtape.opening import _CLOSE_SECONDS, opened
from mailtape.rows import diagnosis, messages, mysql_schema, tiers
from mailtape.rows.database import Session
from mailtape.rows.mysql_database import MysqlDatabase
from mailtape.rows.organisations import Organisation
from mailtape.services import health
from mailtape.services.wakeups import Wakeups
from mailtape.settings import read_settings
from mailtape_workers.consumer import Consumer, ConsumerSettings
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


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_said", {})


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


def _signal(session: Session, number: int, state: str) -> None:
    session.execute(text(f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {number}"))


async def test_whatever_is_not_said_of_a_value_is_no_fault_of_who_asked(
    database: MysqlDatabase,
) -> None:
    numbers = (1, 3, 1026, 1047, 1105, 1142, 1158, 1184, 1194, 1206, 1615, 1698, 1877, 3101, 9999)
    for number in numbers:
        with pytest.raises(Unavailable) as refused, capture_logs() as logs:
            await database.write(_signal, number, "HY000")
        assert [(line["event"], line["error"]) for line in logs] == [("mysql.unusable", number)]
    assert "error 9999" in (diagnosis.explain(refused.value) or "")
    for statement in ("SELECT no_such_column FROM tiers", "SELECT 1 FROM no_such_table", "SELEKT"):
        with pytest.raises(Unavailable):
            await database.read(lambda s, said: s.execute(text(said)), statement)


async def test_what_is_said_of_a_value_is_for_who_gave_it(database: MysqlDatabase) -> None:
    def insert(session: Session, name: object, values: str = "(:n, '{}', '[]')") -> None:
        statement = f"INSERT INTO tiers (name, limits, features) VALUES {values}"
        session.execute(text(statement), {"n": name})

    with pytest.raises(sql_errors.DataError, match="Data too long") as too_long:
        await database.write(insert, "my one-time code is " + "4711" * 20)
    assert "4711" not in str(too_long.value)
    with pytest.raises(sql_errors.DBAPIError, match=r"Incorrect string|Cannot convert"):
        await database.write(insert, b"\xff")
    with pytest.raises(sql_errors.DBAPIError, match=r"CONSTRAINT|Invalid JSON"):
        await database.write(insert, "x", "(:n, 'no JSON', '[]')")
    with pytest.raises(sql_errors.IntegrityError, match="Duplicate entry"):
        await database.write(insert, "twice", "(:n, '{}', '[]'), (:n, '{}', '[]')")
    for number, state in ((1366, "HY000"), (3140, "22032"), (3819, "HY000"), (1153, "08S01")):
        with pytest.raises(sql_errors.DBAPIError):
            await database.write(_signal, number, state)


async def test_the_driver_logs_values_where_we_have_it_hold_its_tongue(
    database: MysqlDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """See `test_log` for what becomes of it."""
    quoting = text("SELECT CAST('my one-time code' AS UNSIGNED)")
    with caplog.at_level(logging.DEBUG, "asyncmy"), caplog.at_level(logging.DEBUG):
        assert await database.read(lambda s: s.execute(quoting).scalar_one()) == 0

    told = {line.name for line in caplog.records if "one-time code" in line.getMessage()}
    assert told == {"asyncmy"}


async def test_an_outage_parks_no_mail_whatever_the_server_says(
    database: MysqlDatabase, url: URL, tmp_path: Path
) -> None:
    organisation_id = an_organisation_id()
    await database.write(tiers.ensure, UNLIMITED)
    await database.write(_add_organisation, organisation_id)
    stores = open_stores(DataFolder(tmp_path), queue_max_bytes=2**30)
    queue = stores.queue
    for place in range(20):
        raw = f"Subject: innocent {place}\r\n\r\ntext\r\n".encode()
        delivery = a_delivery(organisation_id=organisation_id)
        await queue.put(an_envelope(raw, deliveries=(delivery,)), raw)
    settings = ConsumerSettings(workers=1, tries=2, retry_seconds=0.02)
    consumer = Consumer(
        queue, stores.bodies, database, Wakeups(), settings, lambda: datetime.now(UTC)
    )
    _say(url, _REFUSE)
    try:
        with capture_logs() as logs:
            await consumer.start()
            await _until_released(6, logs)
        assert ("mysql.unusable", 1047) in {(line["event"], line.get("error")) for line in logs}
        _say(url, "RENAME TABLE organisations TO elsewhere")
        with capture_logs() as logs:
            await _until_released(6, logs)
        assert ("mysql.unusable", 1146) in {(line["event"], line.get("error")) for line in logs}
        assert await health.check({"rows": health.reading(database)}) == {"rows": False}
        _say(url, "RENAME TABLE elsewhere TO organisations")
    finally:
        _say(url, "DROP TRIGGER refuse")

    async with asyncio.timeout(20):
        while (depth := await queue.depth()).waiting or depth.leased:
            await asyncio.sleep(0.02)
    await consumer.stop()
    assert depth.parked == 0
    kept = await database.read(messages.find, organisation_id, MessageQuery(), limit=100)
    assert len(kept) == 20
    stores.close()


_REFUSE = """CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW
    SIGNAL SQLSTATE '08S01' SET MYSQL_ERRNO = 1047"""


async def _until_released(times: int, logs: list[Any]) -> None:
    async with asyncio.timeout(20):
        while [line["event"] for line in logs].count("batch.released") < times:
            await asyncio.sleep(0.01)


def _say(url: URL, statement: str) -> None:
    with mysql.connected(url) as connection:
        connection.execute(text(statement))


def _add_organisation(session: Session, organisation_id: OrganisationId) -> None:
    slug = organisation_id.hex()[:8]
    made = {"slug": slug, "name": slug, "tier": "unlimited", "created_at": datetime.now(UTC)}
    session.add(Organisation(id=organisation_id, **made))


def test_a_process_ends_in_time_while_the_server_hangs(
    instance: Instance, url: URL, tmp_path: Path
) -> None:
    given = instance.variables() | {"DATA_DIR": str(tmp_path)}
    env = tmp_path / "mailtape.env"
    env.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    began_to_close = 0.0

    async def live() -> None:
        nonlocal began_to_close
        async with opened(read_settings(env), DataFolder(tmp_path)) as stores:
            await stores.database.read(_one)
            bulk = asyncio.create_task(stores.database.write_bulk(_sleep, 60))
            waiting = asyncio.create_task(stores.database.read(_sleep, 60))
            await asyncio.sleep(0.2)
            instance.pause("mysql")
            began_to_close = time.monotonic()
        del bulk, waiting

    try:
        asyncio.run(live())
        took = time.monotonic() - began_to_close
    finally:
        instance.resume("mysql")

    assert took < _CLOSE_SECONDS + 1


def _sleep(session: Session, seconds: int) -> None:
    session.execute(text(f"SELECT sleep({seconds})"))


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
