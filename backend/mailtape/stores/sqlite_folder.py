"""The data folder of the embedded default: which files it has, who may open them, how they age.

lock                held by the one process that serves the folder
mailtape.sqlite3    rows
bodies.sqlite3      bodies and attachments
queue.sqlite3       accepted mail on its way
before-REVISION.sqlite3   a copy of the rows from before an upgrade of the schema
"""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from mailtape.rows import migrations
from mailtape.rows.database import Database, driver_errors, prepare
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.sqlite_bodies import SqliteBodies
from mailtape.stores.sqlite_queue import SqliteQueue

ROWS = "mailtape.sqlite3"
BODIES = "bodies.sqlite3"
QUEUE = "queue.sqlite3"


class FolderInUse(Exception):
    """Another process serves this folder."""


class SchemaTooNew(Exception):
    """The rows were written by a later release than this one."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for as long as the context lasts, making it when it is missing.

    Raises:
        FolderInUse: somebody else holds it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(folder) from None
        yield


def schema(folder: Path) -> str | None:
    """Name the revision of the folder's rows; None for an empty or missing folder."""
    engine = create_engine(f"sqlite:///{folder / ROWS}", poolclass=NullPool)
    return migrations.current(engine) if (folder / ROWS).exists() else None


def migrate(folder: Path) -> bool:
    """Bring the rows to this release's schema, after a copy of what was there; tell if it did.

    Raises:
        SchemaTooNew: a later release was here.
    """
    before = schema(folder)
    if before == migrations.head():
        return False
    if before is not None:
        if not migrations.knows(before):
            raise SchemaTooNew(before)
        _copy(folder / ROWS, folder / f"before-{migrations.head()}.sqlite3")
    with closing(sqlite3.connect(folder / ROWS)) as connection:
        prepare(connection)  # while the file is empty: what it is, is decided with its first table
    engine = create_engine(f"sqlite:///{folder / ROWS}", poolclass=NullPool)
    migrations.upgrade(engine)
    return True


def _copy(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(source)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)


@dataclass(frozen=True, slots=True)
class Stores:
    """What stands in the folder, open."""

    writing: WritingThread
    database: Database
    bodies: SqliteBodies
    queue: SqliteQueue

    def close(self) -> None:
        """Finish what is to be written and close the files. Blocks."""
        self.writing.stop()
        self.queue.close()
        self.bodies.close()
        self.database.close()


def open_stores(folder: Path, *, queue_max_bytes: int) -> Stores:
    """Open the files of a folder that `migrate` has seen. Needs a running event loop.

    Raises:
        Unavailable: a file cannot be opened.
    """
    writing = WritingThread()
    with driver_errors():
        return Stores(
            writing=writing,
            database=Database(folder / ROWS, writing),
            bodies=SqliteBodies(folder / BODIES, writing),
            queue=SqliteQueue(folder / QUEUE, writing, max_bytes=queue_max_bytes),
        )
