"""The rows on a MySQL or MariaDB server that any number of processes share.

Two pools of bounded size: reading transactions see one snapshot (REPEATABLE READ), writing ones
see what is committed when they look (READ COMMITTED), since they look after they have locked. Bulk
writing never takes the last connection. Whoever asks hears within a stated time, also of a server
that takes connections and says nothing: then the connection is thrown away, not handed on.

A transaction that the server itself undid (deadlock, a lock waited for too long) is run again, and
so is one whose connection was found closed before the commit was sent. After that nothing is:
whether it was done cannot be known, and the caller hears `Unavailable`. Run again, too, is what
inserted a row that another transaction had inserted since it looked: it looks once more.

An error is the fault of who asked only where the server says it of a value that it was given. All
others are the server's, or its operator's, and there is no list of them: an access that was taken
away, a node that is not ready and a table that is not there are `Unavailable`, and the log has the
server's number.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, event
from sqlalchemy import exc as sql_errors
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from mailtape import outages
from mailtape.domain.errors import StoreFull, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""How long somebody waits for a transaction, everything in it, before it is given up."""
BULK_SECONDS = 30.0
"""The same for work that nobody waits for."""
_LOCK_SECONDS = 3
"""How long a statement waits for another transaction's lock."""
_RECYCLE_SECONDS = 1800
"""Connections are replaced after this; servers close idle ones after 8 h, proxies after less."""
_GRACE_SECONDS = 1.0
"""How long a transaction that was given up may take to throw its connection away."""
_TRIES = 8
_PAUSE_SECONDS = 0.01
"""Before the second try; twice, three times as much before the next ones."""

_UNDONE = frozenset({1020, 1205, 1213})
"""Changed since it was read, a lock waited for too long, deadlock: the server undid it all, or lets
it be undone."""
_DUPLICATE = frozenset({1062})
_DUPLICATE_TRIES = 3
_FULL = frozenset({1021, 1114, 1041, 1037, 1038})
"""Disk full, table full, and no memory left to do it in."""
_LOST = frozenset({1927, 2006, 2013, 2014, 2045, 2055, 4031})
"""The connection is gone, or cannot be trusted any more."""
_VALUE_STATES = frozenset({"22", "23"})
"""The classes of SQLSTATE that speak of a value: it does not fit its type, or breaks a rule."""
_VALUE_NUMBERS = frozenset({1118, 1153, 1265, 1300, 1366, 3819, 3854})
"""Those that do so by another state: a row or a statement is too large, a value is cut, is no text
of its character set, or breaks a CHECK."""

_SETUP = (
    # MySQL warns on each connection of a strict mode that is less than this.
    "SET SESSION sql_mode = 'TRADITIONAL',"
    " innodb_lock_wait_timeout = {lock}"
    # Only one of these two comments is read by a server: MariaDB's own, or MySQL's, which bounds
    # SELECT alone.
    " /*M! , max_statement_time = {seconds} */ /*!80000 , max_execution_time = {milliseconds} */"
)
"""What holds for every connection: no value is cut to fit, and no question outlives its asker."""


def mysql_url(*, host: str, port: int, user: str, password: str | None, name: str) -> URL:
    """Name a database of a server; the password is masked when the URL is printed."""
    return URL.create(
        "mysql+asyncmy", user, password, host, port, name, query={"charset": "utf8mb4"}
    )


class MysqlDatabase:
    """Rows on a server, as `rows.database.Database` promises; belongs to one event loop."""

    def __init__(
        self,
        url: URL,
        *,
        connections: int,
        answer_seconds: float = ANSWER_SECONDS,
        bulk_seconds: float = BULK_SECONDS,
    ) -> None:
        """Connect to nothing yet; at most so many `connections`, and at least two, will be open."""
        writers = max(1, connections // 2)
        self._answer_seconds = answer_seconds
        self._bulk_seconds = bulk_seconds
        self._reader = _engine(url, max(1, connections - writers), "REPEATABLE READ", bulk_seconds)
        self._writer = _engine(url, writers, "READ COMMITTED", bulk_seconds)
        self._bulk = asyncio.Semaphore(max(1, writers - 1))
        self._under_way: set[asyncio.Task[Any]] = set()

    async def read(
        self, query: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query in a transaction that sees one snapshot."""
        work = partial(_call, query, args, kwargs)
        return await self._within(self._answer_seconds, self._reader, work)

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change; it is done or undone also when nobody waits for it any more."""
        change = partial(_call, work, args, kwargs)
        return await self._within(self._answer_seconds, self._writer, change)

    async def write_bulk(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change on a connection that leaves one for `write`."""
        change = partial(_call, work, args, kwargs)
        async with self._bulk:
            return await self._within(self._bulk_seconds, self._writer, change)

    async def close(self) -> None:
        """Wait for what is under way and close every connection."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self._bulk_seconds)
        await self._reader.dispose()
        await self._writer.dispose()

    async def _within(self, seconds: float, engine: AsyncEngine, work: Callable[[Session], T]) -> T:
        """Bound a transaction by its time.

        It runs in a task of its own, so that neither a caller who is cancelled nor a connection
        that cannot even be closed leaves a conversation half read or a caller waiting.
        """
        task = asyncio.create_task(_run(engine, work, commit=engine is self._writer))
        self._under_way.add(task)
        task.add_done_callback(self._settled)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:  # nobody waits any more, and its connection is not for ever
            asyncio.get_running_loop().call_later(seconds, task.cancel)
            raise
        if not done:
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE_SECONDS)
            outages.tell("mysql.unusable", "no answer")
            raise Unavailable("The database does not answer at the moment.")
        try:
            return task.result()
        except Unavailable as error:
            tell_of(error.__cause__)
            raise

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # heard, also when nobody waits any more


async def _run(engine: AsyncEngine, work: Callable[[Session], T], *, commit: bool) -> T:
    """Run a transaction, again when the server undid it."""
    done = 0
    while True:
        done += 1
        try:
            return await _transaction(engine, work, commit=commit)
        except _Undone as undone:
            if done >= undone.tries:
                raise undone.error from undone.error.__cause__
        await asyncio.sleep(done * _PAUSE_SECONDS)


class _Undone(Exception):
    """Nothing of the transaction is left; it may be run again, up to so many times in all."""

    def __init__(self, error: Exception, tries: int) -> None:
        self.error = error
        self.tries = tries


async def _transaction(engine: AsyncEngine, work: Callable[[Session], T], *, commit: bool) -> T:
    committing = False
    try:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            result = await session.run_sync(work)
            if commit:
                await session.flush()
                committing = True
                await session.commit()
            return result
    except (sql_errors.DBAPIError, sql_errors.TimeoutError, OSError) as error:
        number = number_of(error)
        if number in _DUPLICATE:
            raise _Undone(error, _DUPLICATE_TRIES) from error
        known = from_mysql(error)
        if known is None:
            raise
        if number in _UNDONE or (number in _LOST and not committing):
            known.__cause__ = error
            raise _Undone(known, _TRIES) from error
        raise known from error


def from_mysql(error: BaseException) -> Unavailable | None:
    """Name what keeps the server from working; None for what it says of a value."""
    number = number_of(error)
    if number in _FULL:
        return StoreFull("There is no room to keep this.")
    state = getattr(_drivers(error), "sqlstate", None) or ""
    if number in _VALUE_NUMBERS or state[:2] in _VALUE_STATES:
        return None
    return Unavailable("The database cannot be used at the moment.")


def number_of(error: BaseException | None) -> int | None:
    """Read the server's or the driver's number of an error (classes tell too little)."""
    own = _drivers(error)
    number = own.args[0] if own is not None and own.args else None
    return number if isinstance(number, int) and not isinstance(own, OSError) else None


def tell_of(error: BaseException | None) -> None:
    """Log what keeps the server from working."""
    outages.tell("mysql.unusable", number_of(error) or type(_drivers(error)).__name__)


def _drivers(error: BaseException | None) -> BaseException | None:
    return error.orig if isinstance(error, sql_errors.DBAPIError) else error


def _call(
    function: Callable[Concatenate[Session, ...], T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    session: Session,
) -> T:
    return function(session, *args, **kwargs)


def _engine(url: URL, connections: int, isolation: str, seconds: float) -> AsyncEngine:
    engine = create_async_engine(
        url,
        isolation_level=isolation,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=seconds,
        pool_recycle=_RECYCLE_SECONDS,
        hide_parameters=True,
    )
    setup = _SETUP.format(lock=_LOCK_SECONDS, seconds=seconds, milliseconds=int(seconds * 1000))

    @event.listens_for(engine.sync_engine, "connect")
    def _on_connect(connection: Any, _entry: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(setup)
        cursor.close()

    return engine
