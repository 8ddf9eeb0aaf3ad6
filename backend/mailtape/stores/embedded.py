"""The SQLite files of a data folder: opened one by one, written by one thread, closed together."""

from mailtape.data_folder import DataFolder
from mailtape.rows.sqlite_database import SqliteDatabase, driver_errors
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.sqlite_bodies import SqliteBodies
from mailtape.stores.sqlite_claims import SqliteClaims
from mailtape.stores.sqlite_queue import SqliteQueue

_PAGES = 1000
"""Four megabytes: some milliseconds of the writing thread."""


class SqliteFiles:
    """What is open of a data folder whose rows have this release's schema.

    Each store is asked for once at most. Needs a running event loop. Whoever leases from the queue
    must own the folder.
    """

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._writing: WritingThread | None = None
        self._database: SqliteDatabase | None = None
        self._bodies: SqliteBodies | None = None
        self._queue: SqliteQueue | None = None
        self._claims: SqliteClaims | None = None

    def database(self) -> SqliteDatabase:
        """Open the rows.

        Raises:
            Unavailable: the file cannot be opened; so with the others.
        """
        with driver_errors():
            self._database = SqliteDatabase(self._folder.rows, self._writer())
        return self._database

    def bodies(self) -> SqliteBodies:
        """Open the bodies."""
        with driver_errors():
            self._bodies = SqliteBodies(self._folder.bodies, self._writer())
        return self._bodies

    def claims(self) -> SqliteClaims:
        """Open what large mail waits in while a broker holds its place."""
        with driver_errors():
            self._claims = SqliteClaims(self._folder.claims, self._writer())
        return self._claims

    def queue(self, max_bytes: int) -> SqliteQueue:
        """Open the queue; `max_bytes` of mail may wait in it."""
        with driver_errors():
            self._queue = SqliteQueue(self._folder.queue, self._writer(), max_bytes=max_bytes)
        return self._queue

    def _writer(self) -> WritingThread:
        if self._writing is None:
            self._writing = WritingThread()
        return self._writing

    async def tidy(self) -> int:
        """Give free pages back to the disk, a few at a time; tell how many pages."""
        return sum([await each.shrink(_PAGES) for each in (self._queue, self._bodies) if each])

    def close(self) -> None:
        """Finish what is to be written and close the files. Blocks."""
        if self._writing is not None:
            self._writing.stop()
        for each in (self._queue, self._claims, self._bodies, self._database):
            if each is not None:
                each.close()
