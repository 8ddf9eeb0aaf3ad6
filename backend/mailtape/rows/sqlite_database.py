"""The rows in one SQLite file: transactions on the right thread.

All writing happens on the one writing thread and reading on a few threads with connections of
their own, which WAL lets run beside it. Here too is what every SQLite file of ours needs.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.rows.writing_thread import WritingThread

P = ParamSpec("P")
T = TypeVar("T")

READING_THREADS = 3
_PAGE_CACHE_KIB = 16 * 1024
_WAL_OCTETS = 16 * 2**20
"""Moved into the file when the log has grown to this: rarely enough to move a page once that was
written often, and little enough to be moved within a few hundredths of a second."""
BLOB_PAGE_OCTETS = 16 * 1024
_INCREMENTAL = 2
"""The value of `PRAGMA auto_vacuum` with which free pages go back to the disk when asked for."""


class SqliteDatabase:
    """Rows in one SQLite file, as `rows.database.Database` promises."""

    def __init__(self, path: Path, writing: WritingThread) -> None:
        self._writing = writing
        self._writer = _engine(path, begin="BEGIN IMMEDIATE")
        self._reader = _engine(path, begin="BEGIN")
        self._reading = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="reading")

    async def read(
        self, query: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query on a reading thread."""
        run = partial(_read, self._reader, lambda session: query(session, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._reading, run)

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change on the writing thread, before all bulk writing."""
        run = partial(_write, self._writer, lambda session: work(session, *args, **kwargs))
        return await self._writing.submit(run, urgent=True)

    async def write_bulk(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change on the writing thread, after what somebody waits for."""
        run = partial(_write, self._writer, lambda session: work(session, *args, **kwargs))
        return await self._writing.submit(run)

    def close(self) -> None:
        """Close every connection; call it after the writing thread has stopped."""
        self._reading.shutdown()
        self._reader.dispose()
        self._writer.dispose()


def _read(engine: Engine, query: Callable[[Session], T]) -> T:
    with driver_errors(), Session(engine, expire_on_commit=False) as session:
        return query(session)


def _write(engine: Engine, work: Callable[[Session], T]) -> T:
    with driver_errors(), Session(engine, expire_on_commit=False) as session:
        result = work(session)
        session.commit()
        return result


@contextmanager
def driver_errors() -> Iterator[None]:
    """Turn the driver's errors into the two that the rims know; a bug stays a bug."""
    try:
        yield
    except DBAPIError as error:
        known = from_sqlite(error.orig)
        if known is None:
            raise
        raise known from error
    except sqlite3.DatabaseError as error:
        known = from_sqlite(error)
        if known is None:
            raise
        raise known from error


def from_sqlite(error: BaseException | None) -> Unavailable | None:
    """Name what keeps SQLite from working; None for what is a fault of ours."""
    code = getattr(error, "sqlite_errorcode", None)  # the Python module's own errors have none
    if code == sqlite3.SQLITE_FULL:
        return StoreFull("There is no room to keep this.")
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return Unavailable("A database file is damaged.", code="file_damaged")
    if isinstance(error, sqlite3.OperationalError):
        return Unavailable("The database cannot be used at the moment.")
    return None


def prepare(connection: sqlite3.Connection, page_octets: int = 4096) -> None:
    """Set what holds for every connection to every SQLite file of ours.

    FULL, because with WAL anything less may forget the last commits when the power fails, and a
    commit here is what 250 stands on. Files of blobs take larger pages: a third less work to
    write and to free a mail of 34 kB.
    """
    connection.isolation_level = None  # transactions begin where we say BEGIN, nowhere else
    if connection.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):
        # These have a say until the first table exists. Afterwards this one would still write to
        # the file, and a reader must be able to come while another process writes.
        connection.execute(f"PRAGMA page_size={page_octets}")
        connection.execute(f"PRAGMA auto_vacuum={_INCREMENTAL}")
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=5000",
        f"cache_size=-{_PAGE_CACHE_KIB}",
        f"wal_autocheckpoint={_WAL_OCTETS // page_octets}",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def shrink(connection: sqlite3.Connection, pages: int) -> int:
    """Give up to so many free pages of a file back to the disk; tell how many."""
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    # Each row of the answer is one page given back, so all of them must be fetched.
    connection.execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()
    return min(free, pages)


def _engine(path: Path, begin: str) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", pool_size=READING_THREADS, max_overflow=0, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        prepare(connection)

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
