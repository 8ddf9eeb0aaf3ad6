"""`mailtape doctor`: is everything there that the settings name, and does it work?"""

import asyncio
import logging
import resource
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import cache
from pathlib import Path

import typer
from sqlalchemy import URL

from mailtape.commands.folder import DataOption
from mailtape.data_folder import DataFolder
from mailtape.domain.diagnosis import Answer, Check, NotRight, Part
from mailtape.opening import check_addresses, rows_url
from mailtape.ports.bodies import Bodies
from mailtape.preparing import SchemaNotCurrent, check_schema
from mailtape.roles.process import open_files_wanted
from mailtape.rows import diagnosis as rows_diagnosis
from mailtape.rows.database import Database
from mailtape.rows.mysql_database import MysqlDatabase
from mailtape.rows.schema import SchemaTooNew
from mailtape.services import diagnosis
from mailtape.settings import Settings, read_settings, size
from mailtape.stores import mongo_diagnosis, rabbit_diagnosis, redis_diagnosis
from mailtape.stores.embedded import SqliteFiles
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_connection import open_client
from mailtape.stores.rabbit_topology import RabbitTopology
from mailtape.stores.redis_connection import RedisConnection

_FOLDER = "See that DATA_DIR is a folder of ours with room in it."
_MYSQL = "DB_HOST and DB_PORT must lead to a MySQL that works."
_MONGODB = "MONGODB_URL must lead to a MongoDB that works."
_REDIS = "REDIS_URL must lead to a Redis that works."
_RABBITMQ = "RABBITMQ_URL must lead to a RabbitMQ that works."

_LEAST_FREE = 2**28
"""A quarter of a gibibyte: from there on mail is soon refused."""
_REDIS_SECONDS = 3.0
"""Longer than a process waits: the question is whether it works, not how fast."""
_CLOSE_SECONDS = 2.0


def doctor(data: DataOption = None) -> None:
    """Use each part of the installation once and tell how it does; may run beside a server.

    Prints one line a check: `ok`, or `FAILED` and the setting to change. Exits 0 when all are ok,
    1 otherwise. Nothing is left behind, no mail is touched, and no secret is printed.
    """
    settings = read_settings(data_dir=data)
    asyncio.run(check_addresses(settings))
    logging.disable(logging.ERROR)  # what is wrong is told here, and once
    typer.echo("ok      settings: can be read.")
    right = asyncio.run(_examine(settings, DataFolder(settings.data_dir)))
    raise typer.Exit(0 if right else 1)


async def _examine(settings: Settings, folder: DataFolder) -> bool:
    right = True
    async with AsyncExitStack() as stack:
        parts = _parts(settings, folder, stack)
        async for answers in diagnosis.examine(parts):
            for answer in answers:
                typer.echo(_line(answer))
                right = right and answer.right
    return right


def _line(answer: Answer) -> str:
    return f"{'ok' if answer.right else 'FAILED':7} {answer.part}: {answer.what}. {answer.sentence}"


def _parts(settings: Settings, folder: DataFolder, stack: AsyncExitStack) -> Sequence[Part]:
    """Choose as `opening` does; servers are spoken to by connections of their own."""
    files = SqliteFiles(folder)
    stack.push_async_callback(asyncio.to_thread, files.close)
    url = rows_url(settings)
    mongodb, rabbitmq, redis = settings.mongodb_url, settings.rabbitmq_url, settings.redis_url
    database = cache(files.database if url is None else lambda: _mysql_database(url, stack))
    parts = [
        _machine(settings, folder),
        _rows(settings, folder, database),
        _bodies_in_file(folder, files)
        if mongodb is None
        else _mongodb(settings, mongodb.get_secret_value(), stack),
        _queue_in_file(settings, folder, files, stack)
        if rabbitmq is None
        else _rabbitmq(settings, rabbitmq.get_secret_value()),
    ]
    return parts if redis is None else [*parts, _redis(redis.get_secret_value(), stack)]


def _mysql_database(url: URL, stack: AsyncExitStack) -> Database:
    database = MysqlDatabase(url, connections=2)
    stack.push_async_callback(_within, database.close)
    return database


# The machine


def _machine(settings: Settings, folder: DataFolder) -> Part:
    return Part(
        "machine",
        (
            _looked("lets enough files be open", lambda: _open_files(settings)),
            _looked("has room for DATA_DIR", lambda: _room(folder.path)),
        ),
        _FOLDER,
        _nothing_known,
    )


def _open_files(settings: Settings) -> str:
    wanted = open_files_wanted(settings)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        raise NotRight(
            f"{allowed} files may be open and {wanted} are wanted; raise the limit (`ulimit -Hn`,"
            " LimitNOFILE), or lower SMTP_MAX_CONNECTIONS or HTTP_MAX_CONNECTIONS."
        )
    return f"{wanted} are wanted."


def _room(path: Path) -> str:
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < _LEAST_FREE:
        raise NotRight(
            f"{size(free)} are free at {there}; make room, or let DATA_DIR be a folder elsewhere."
        )
    return f"{size(free)} are free."


# Rows, in a file or on a server


def _rows(settings: Settings, folder: DataFolder, database: Callable[[], Database]) -> Part:
    in_file = settings.db_host is None
    advice = _FOLDER if in_file else _MYSQL

    async def set_up() -> str:
        return await diagnosis.server_of_rows(database(), settings.db_connections)

    async def one_row() -> str:
        return await diagnosis.one_row(database(), advice)

    checks = [
        _schema(settings, folder),
        Check("is set up as it must be", set_up),
        Check("writes and reads a row", one_row),
    ]
    if in_file:
        del checks[1]
    name = "rows (SQLite)" if in_file else "rows (MySQL)"
    return Part(name, tuple(checks), advice, rows_diagnosis.explain)


def _schema(settings: Settings, folder: DataFolder) -> Check:
    def look() -> str:
        try:
            check_schema(settings, folder)
        except (SchemaNotCurrent, SchemaTooNew) as error:
            raise NotRight(str(error)) from error
        return "It is this release's."

    return _looked("has the schema", look, decides=True)


# Files in the data folder


def _bodies_in_file(folder: DataFolder, files: SqliteFiles) -> Part:
    return Part(
        "bodies (SQLite)",
        (
            _looked("are there", lambda: _there(folder.bodies), decides=True),
            *_one_body(cache(files.bodies), _FOLDER),
        ),
        _FOLDER,
        _nothing_known,
    )


def _one_body(bodies: Callable[[], Bodies], advice: str) -> Sequence[Check]:
    return [
        check
        for octets in (diagnosis.SMALL_OCTETS, diagnosis.LARGE_OCTETS)
        for check in diagnosis.OneBody(bodies, advice, octets).checks
    ]


def _queue_in_file(
    settings: Settings, folder: DataFolder, files: SqliteFiles, stack: AsyncExitStack
) -> Part:
    async def room() -> str:
        return await diagnosis.room(files.queue(settings.queue_max_bytes), _FOLDER)

    async def one_mail() -> str:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor-", dir=folder.path))
        own = SqliteFiles(DataFolder(Path(made)))
        stack.push_async_callback(asyncio.to_thread, own.close)
        return await diagnosis.one_mail(own.queue(settings.queue_max_bytes), _FOLDER)

    return Part(
        "queue (SQLite)",
        (
            _looked("is there", lambda: _there(folder.queue), decides=True),
            Check("would take a mail now", room),
            Check("keeps a mail and gives it back", one_mail),
        ),
        _FOLDER,
        _nothing_known,
    )


def _there(path: Path) -> str:
    if not path.exists():
        raise NotRight(f"There is no {path}; run `mailtape migrate`, or change DATA_DIR.")
    return f"{path}."


# Servers


def _mongodb(settings: Settings, url: str, stack: AsyncExitStack) -> Part:
    client = open_client(url)
    stack.push_async_callback(_within, client.close)
    database = client[settings.mongodb_database]
    checks = [
        mongo_diagnosis.durable(database),
        *_one_body(lambda: MongoBodies(database), _MONGODB),
    ]
    if settings.rabbitmq_url is not None:
        checks.append(mongo_diagnosis.room_for_claims(database, settings.queue_max_bytes))
    return Part(
        "bodies (MongoDB)",
        tuple(checks),
        _MONGODB,
        mongo_diagnosis.explain,
    )


def _rabbitmq(settings: Settings, url: str) -> Part:
    topology = RabbitTopology(settings.rabbitmq_queue, settings.queue_max_bytes)
    return Part(
        "queue (RabbitMQ)",
        (
            rabbit_diagnosis.declared(url, topology),
            rabbit_diagnosis.bounded(url, topology),
            rabbit_diagnosis.one_message(url, topology),
            rabbit_diagnosis.taking(url, topology),
        ),
        _RABBITMQ,
        rabbit_diagnosis.explain,
    )


def _redis(url: str, stack: AsyncExitStack) -> Part:
    redis = RedisConnection(url, seconds=_REDIS_SECONDS)
    stack.push_async_callback(_within, redis.close)

    async def right_time() -> str:
        return await diagnosis.right_time("REDIS_URL", lambda: redis_diagnosis.clock(redis))

    return Part(
        "counters (Redis)",
        (
            redis_diagnosis.answering(redis),
            redis_diagnosis.every_script(redis),
            Check("has the right time", right_time),
            redis_diagnosis.keeping(redis),
        ),
        _REDIS,
        redis_diagnosis.explain,
    )


async def _within(close: Callable[[], Awaitable[None]]) -> None:
    """Close what may be in the middle of something, without waiting for a server that hangs."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await close()


def _looked(what: str, look: Callable[[], str], *, decides: bool = False) -> Check:
    """Look at something in a thread; it blocks for seconds at most."""

    async def ask() -> str:
        return await asyncio.to_thread(look)

    return Check(what, ask, decides)


def _nothing_known(_error: BaseException) -> None:
    return None
