"""Opens what an installation stands on: of each store the twin that its setting names.

The one place where technologies are chosen. What has no setting is SQLite in the data folder, whose
files belong to one process. Servers are not waited for: a process starts while one of them is down,
and works with it as soon as it is there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

from pydantic import SecretStr
from sqlalchemy import URL

from mailtape.data_folder import DataFolder
from mailtape.metrics import PART_WORKS
from mailtape.ports.bodies import Bodies
from mailtape.ports.claims import Claims
from mailtape.ports.counters import Counters
from mailtape.ports.limits import FailureLimits
from mailtape.ports.queue import Queue
from mailtape.rows.database import Database
from mailtape.rows.mysql_database import MysqlDatabase, mysql_url
from mailtape.rows.sqlite_database import SqliteDatabase
from mailtape.services.processing import is_stored
from mailtape.services.wakeups import Wakeups
from mailtape.settings import Settings, WrongSettings, wrong_secret
from mailtape.stores import mongo_connection, rabbit_connection, redis_connection
from mailtape.stores.embedded import SqliteFiles
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import Database as MongoDatabase
from mailtape.stores.mongo_connection import open_client
from mailtape.stores.rabbit_queue import RabbitQueue
from mailtape.stores.rabbit_wakeups import RabbitWakeups
from mailtape.stores.redis_connection import RedisConnection
from mailtape.stores.redis_counters import RedisCounters
from mailtape.stores.redis_limits import RedisFailureLimits, StandbyFailureLimits
from mailtape.stores.shared_sql_counters import SharedSqlCounters
from mailtape.stores.sql_counters import SqlCounters
from mailtape.stores.sql_limits import SqlFailureLimits
from mailtape.stores.sqlite_queue import SqliteQueue
from mailtape.stores.standby_counters import StandbyCounters

COUNTERS = "counters"
"""The part that Redis is in the metrics. Health leaves it out: MySQL stands in for it."""

_MOST_LOOKED_THROUGH = 500
"""Waiting mails, to find out whose they are: some milliseconds in which none can be leased."""

_CLOSE_SECONDS = 1.0
"""For all connections to servers together, when the process ends: what a drain of 25, the batches'
3 and the last words leave of 30. Whatever a server was told is done or undone without us."""

Upkeep: TypeAlias = Callable[[datetime], Awaitable[int]]
"""Done again and again; tells how much there was to do."""


@dataclass(frozen=True, slots=True)
class Counting:
    """Counters, and what keeps them true; None where nothing has to."""

    counters: Counters
    reconcile: Upkeep | None = None
    """Compares them with the rows, every few seconds."""
    look: Upkeep | None = None
    """Looks what mail is stored by now, without which nothing is taken off; every few seconds."""
    tend: Upkeep | None = None
    """Notices that they were lost, twice a second."""


@dataclass(frozen=True, slots=True)
class Stores:
    """What one process stands on, open."""

    database: Database
    bodies: Bodies
    queue: Queue
    claims: Claims | None
    """Where large mail waits while a broker holds its place; None without a broker."""
    counting: Callable[[], Awaitable[Counting]]
    """Opens the counters; those in memory read first what waits in the queue, so nothing may be
    taken from it before. Who judges nobody's mail needs none."""
    limits: FailureLimits
    wakeups: Wakeups
    arriving: Callable[[], bool]
    """Tells whether this process takes mail into its queue just now."""
    tidy: Callable[[], Awaitable[int]]
    """Gives back what files no longer need; tells how much."""
    prepare: Callable[[], Awaitable[None]]
    """Makes the indexes and queues that servers must have; what is there already stays as it is."""


@asynccontextmanager
async def opened(settings: Settings, folder: DataFolder) -> AsyncIterator[Stores]:
    """Open everything, and close it again.

    Raises:
        Conflict: a server has something of ours that was made otherwise.
        Unavailable: a file cannot be opened.
        WrongSettings: a driver cannot read an address.
    """
    await check_addresses(settings)
    async with AsyncExitStack() as last:
        files = SqliteFiles(folder)
        last.push_async_callback(asyncio.to_thread, files.close)
        stack = await last.enter_async_context(_closing_soon())
        database = _database(settings, files, stack)
        mongo = _mongo(settings, stack)
        bodies = files.bodies() if mongo is None else MongoBodies(mongo)
        claims = _claims(settings, files, mongo)
        queue = await _queue(settings, files, claims, database, stack)

        async def prepare() -> None:
            for each in (bodies, claims):
                if isinstance(each, MongoBodies | MongoClaims):
                    await each.prepare()
            if isinstance(queue, RabbitQueue):
                await queue.declare()

        wakeups = await _wakeups(settings, stack)
        redis = _redis(settings, stack)
        yield Stores(
            database=database,
            bodies=bodies,
            queue=queue,
            claims=claims,
            counting=partial(_counting, database, queue, redis, stack),
            limits=_limits(database, redis),
            wakeups=wakeups,
            arriving=queue.arriving if isinstance(queue, SqliteQueue) else _never,
            tidy=files.tidy,
            prepare=prepare,
        )


@asynccontextmanager
async def _closing_soon() -> AsyncIterator[AsyncExitStack]:
    """Leave what was entered, the last first, without waiting for a server that hangs."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        closing = asyncio.create_task(stack.aclose())
        await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
        if closing.done():
            closing.result()
        closing.cancel()


async def check_addresses(settings: Settings) -> None:
    """Let each driver read the address that is set for it; connects to nothing.

    Raises:
        WrongSettings: one cannot; its words are kept back, for they may hold parts of the address.
    """
    faults = []
    for name, check in _ADDRESSES.items():
        url = _revealed(getattr(settings, name))
        if url is not None:
            try:
                await check(url)
            except ValueError:
                faults.append(wrong_secret(name))
    if faults:
        raise WrongSettings(tuple(faults))


_ADDRESSES: Mapping[str, Callable[[str], Awaitable[None]]] = {
    "mongodb_url": mongo_connection.check_address,
    "redis_url": redis_connection.check_address,
    "rabbitmq_url": rabbit_connection.check_address,
}


def rows_url(settings: Settings) -> URL | None:
    """Name the database of rows on a server; None when they are in the data folder."""
    if settings.db_host is None:
        return None
    return mysql_url(
        host=settings.db_host,
        port=settings.db_port,
        user=settings.db_user,
        password=_revealed(settings.db_password),
        name=settings.db_name,
    )


def _database(settings: Settings, files: SqliteFiles, stack: AsyncExitStack) -> Database:
    url = rows_url(settings)
    if url is None:
        return files.database()
    database = MysqlDatabase(url, connections=settings.db_connections)
    stack.push_async_callback(database.close)
    return database


def _mongo(settings: Settings, stack: AsyncExitStack) -> MongoDatabase | None:
    url = _revealed(settings.mongodb_url)
    if url is None:
        return None
    client = open_client(url)
    stack.push_async_callback(client.close)
    return client[settings.mongodb_database]


def _claims(settings: Settings, files: SqliteFiles, mongo: MongoDatabase | None) -> Claims | None:
    """Choose where large mail waits while a broker holds its place; None without a broker."""
    if settings.rabbitmq_url is None:
        return None
    return files.claims() if mongo is None else MongoClaims(mongo)


async def _queue(
    settings: Settings,
    files: SqliteFiles,
    claims: Claims | None,
    database: Database,
    stack: AsyncExitStack,
) -> Queue:
    url = _revealed(settings.rabbitmq_url)
    if url is None or claims is None:
        return files.queue(settings.queue_max_bytes)
    queue = RabbitQueue(
        url,
        settings.rabbitmq_queue,
        claims,
        max_bytes=settings.queue_max_bytes,
        stored=partial(is_stored, database),
    )
    stack.push_async_callback(queue.close)
    await queue.start()
    return queue


async def _wakeups(settings: Settings, stack: AsyncExitStack) -> Wakeups:
    wakeups = Wakeups(settings.watches_per_organization)
    url = _revealed(settings.rabbitmq_url)
    if url is not None:
        others = RabbitWakeups(
            url, settings.rabbitmq_queue, ring=wakeups.ring, ring_all=wakeups.ring_all
        )
        wakeups.also_tell(others.announce)
        stack.push_async_callback(others.close)
        await others.start()
    return wakeups


def _redis(settings: Settings, stack: AsyncExitStack) -> RedisConnection | None:
    url = _revealed(settings.redis_url)
    if url is None:
        return None
    connection = RedisConnection(url)
    stack.push_async_callback(connection.close)
    return connection


def _limits(database: Database, redis: RedisConnection | None) -> FailureLimits:
    rows = SqlFailureLimits(database)
    if redis is None:
        return rows
    return StandbyFailureLimits(RedisFailureLimits(redis), rows, redis)


async def _counting(
    database: Database, queue: Queue, redis: RedisConnection | None, stack: AsyncExitStack
) -> Counting:
    """Choose counters: in memory only where this process is the only one there can be."""
    if redis is not None:
        return await _in_redis(database, queue, redis, stack)
    if isinstance(database, SqliteDatabase) and isinstance(queue, SqliteQueue):
        return await _in_memory(database, queue)
    return Counting(SharedSqlCounters(database))


async def _in_redis(
    database: Database, queue: Queue, connection: RedisConnection, stack: AsyncExitStack
) -> Counting:
    redis = RedisCounters(connection, database)
    stack.push_async_callback(redis.close)
    counters = StandbyCounters(redis, SharedSqlCounters(database), connection)
    stack.push_async_callback(counters.close)
    PART_WORKS.labels(COUNTERS).set_function(lambda: connection.available)
    stack.callback(PART_WORKS.remove, COUNTERS)
    await redis.begin(datetime.now(UTC))  # before any door is open: nobody is put off at first

    stored: datetime | None = None

    async def look(now: datetime) -> int:
        nonlocal stored
        stored = await _stored_before(queue, now) or stored  # once true, it stays true
        return 0

    async def reconcile(now: datetime) -> int:
        return await redis.reconcile(now, stored=stored)

    async def tend(now: datetime) -> int:
        if connection.available:  # while it is away nothing can be noticed, and that is logged
            await redis.tend(now)
        return 0

    return Counting(counters, reconcile, look, tend)


async def _stored_before(queue: Queue, now: datetime) -> datetime | None:
    """Tell a time before which all mail was accepted that has been stored by now."""
    if isinstance(queue, RabbitQueue):
        return await queue.left_before(now)
    depth = await queue.depth()  # of a file, which nobody else takes from
    return None if depth.waiting or depth.leased else now


async def _in_memory(database: Database, queue: SqliteQueue) -> Counting:
    counters = SqlCounters(database, await queue.backlog())
    await counters.start(datetime.now(UTC))

    async def reconcile(now: datetime) -> int:
        depth = await queue.depth()
        if depth.waiting + depth.leased > _MOST_LOOKED_THROUGH:
            return 0
        return await counters.reconcile(now, queue.backlog)

    return Counting(counters, reconcile)


def _never() -> bool:
    return False


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
