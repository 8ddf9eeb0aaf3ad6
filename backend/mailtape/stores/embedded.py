"""The stores of the embedded default, opened together: every SQLite file and its one writer."""

from dataclasses import dataclass

from mailtape.data_folder import DataFolder
from mailtape.rows.sqlite_database import SqliteDatabase, driver_errors
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.sqlite_bodies import SqliteBodies
from mailtape.stores.sqlite_queue import SqliteQueue

_PAGES = 1000
"""Four megabytes: some milliseconds of the writing thread."""


@dataclass(frozen=True, slots=True)
class Stores:
    """What stands in a data folder, open."""

    writing: WritingThread
    database: SqliteDatabase
    bodies: SqliteBodies
    queue: SqliteQueue

    async def tidy(self) -> int:
        """Give free pages of the files back to the disk, a few at a time; tell how many pages."""
        return await self.queue.shrink(_PAGES) + await self.bodies.shrink(_PAGES)

    def close(self) -> None:
        """Finish what is to be written and close the files. Blocks."""
        self.writing.stop()
        self.queue.close()
        self.bodies.close()
        self.database.close()


def open_stores(folder: DataFolder, *, queue_max_bytes: int) -> Stores:
    """Open the files of a folder whose rows have this release's schema.

    Needs a running event loop. Whoever leases from the queue must own the folder.

    Raises:
        Unavailable: a file cannot be opened.
    """
    writing = WritingThread()
    with driver_errors():
        return Stores(
            writing=writing,
            database=SqliteDatabase(folder.rows, writing),
            bodies=SqliteBodies(folder.bodies, writing),
            queue=SqliteQueue(folder.queue, writing, max_bytes=queue_max_bytes),
        )
