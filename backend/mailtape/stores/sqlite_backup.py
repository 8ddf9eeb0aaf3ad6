"""A copy of the three SQLite files that fits together, taken while they are written.

The files change one after the other (queue, body, rows, queue again), so three copies taken one
after the other would not fit: a row without its body, or a mail that is in none of them. Here all
three are pinned at one moment and then copied at leisure:

1. Writing to the bodies is held up. Now no body appears and none goes.
2. The bodies are pinned, then the queue, then the rows. Each pin is an open reading transaction.
3. Writing to the bodies goes on, a few hundred microseconds after it was held up.

What that gives, whatever the server does meanwhile:

* Every pinned row has its body: a body is kept before its rows are committed and deleted after
  they are, so a row that is there at its pin had its body at the earlier one, and since then none
  was deleted.
* No acknowledged mail is missing: at the queue's pin it either waits there, or its rows were
  committed before, and the rows were pinned after.
* Every pinned body belongs to a pinned row or to a mail that waits in the pinned queue, except
  what a crash or an unfinished deletion had left over before.

A mail may be both in the queue and in the rows: then it is stored again on the restored copy,
which changes nothing.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from mailtape.domain.errors import Unavailable
from mailtape.rows.sqlite_database import driver_errors, prepare

_PAGES_A_STEP = 1024
_PIN = "SELECT count(*) FROM sqlite_master"
_PRIMARY = 0xFF
"""The part of a result code that its extensions have in common."""
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def copy_together(sources: tuple[Path, Path, Path], targets: tuple[Path, Path, Path]) -> None:
    """Copy rows, bodies and queue (in this order) as they are at one moment; synced on return.

    Raises:
        StoreFull: there is no room for the copy.
        Unavailable: the bodies were being written for longer than five seconds.
    """
    with driver_errors(), _pinned(sources) as pinned:
        for connection, target in zip(pinned, targets, strict=True):
            _copy(connection, target)


@contextmanager
def _pinned(
    sources: tuple[Path, Path, Path],
) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]]:
    rows, bodies, queue = sources
    with ExitStack() as opened:
        holding, *reading = (
            opened.enter_context(closing(_open(path))) for path in (bodies, bodies, queue, rows)
        )
        holding.execute("BEGIN IMMEDIATE")
        for connection in reading:
            connection.execute("BEGIN")
            connection.execute(_PIN).fetchone()
        holding.execute("ROLLBACK")
        of_bodies, of_queue, of_rows = reading
        yield of_rows, of_bodies, of_queue


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True)
    prepare(connection)
    return connection


def _copy(source: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA synchronous=FULL")
        source.backup(copy, pages=_PAGES_A_STEP)
    opened = os.open(target, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def is_sound(path: Path, *, at_rest: bool = False) -> bool:
    """Whether a file is a SQLite database whose pages hang together.

    `at_rest` promises that nobody writes it; then it may lie where we must not write either.

    Raises:
        Unavailable: somebody holds it locked, so nobody can tell.
    """
    how = "immutable=1" if at_rest else "mode=ro"
    try:
        with closing(sqlite3.connect(f"file:{path}?{how}", uri=True)) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _LOCKED:
            raise Unavailable(f"{path} is locked by another program.") from error
        return False
    return bool(answer == "ok")
