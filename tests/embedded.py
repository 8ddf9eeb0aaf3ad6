"""Rows, bodies and queue of a data folder, open at once, as `serve` has them."""

from dataclasses import dataclass

from mailtape.data_folder import DataFolder
from mailtape.rows.sqlite_database import SqliteDatabase
from mailtape.stores.embedded import SqliteFiles
from mailtape.stores.sqlite_bodies import SqliteBodies
from mailtape.stores.sqlite_queue import SqliteQueue


@dataclass(frozen=True, slots=True)
class Stores:
    """What is open; `close` ends it, and blocks."""

    files: SqliteFiles
    database: SqliteDatabase
    bodies: SqliteBodies
    queue: SqliteQueue

    def close(self) -> None:
        self.files.close()


def open_stores(folder: DataFolder, *, queue_max_bytes: int) -> Stores:
    files = SqliteFiles(folder)
    return Stores(files, files.database(), files.bodies(), files.queue(queue_max_bytes))
