"""Bodies as blobs in a SQLite file of their own.

Of their own, because they are most of the bytes: rows and search stay small and in memory beside
them. Written on the one writing thread, read on a thread or two with own connections.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.ports.bodies import Blob, Body, BodyKey, Parts
from mailtape.rows.sqlite_database import BLOB_PAGE_OCTETS, driver_errors, prepare, shrink
from mailtape.rows.writing_thread import WritingThread

T = TypeVar("T")

_READING_THREADS = 2

# The small columns come first: SQLite reaches a column by walking over those before it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS bodies (
    ingest_id BLOB NOT NULL,
    organisation_id BLOB NOT NULL,
    content_size INTEGER NOT NULL,
    content_sha256 BLOB NOT NULL,
    raw_size INTEGER NOT NULL,
    raw_sha256 BLOB NOT NULL,
    content BLOB NOT NULL,
    raw BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS ix_bodies ON bodies (ingest_id, organisation_id);
CREATE TABLE IF NOT EXISTS attachments (
    ingest_id BLOB NOT NULL,
    organisation_id BLOB NOT NULL,
    id TEXT NOT NULL,
    position INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS ix_attachments
    ON attachments (ingest_id, organisation_id, id);
"""
_KEEP_BODY = "INSERT OR IGNORE INTO bodies VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_KEEP_ATTACHMENT = "INSERT OR IGNORE INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?)"
_OF_KEY = "WHERE ingest_id = ? AND organisation_id = ?"


class SqliteBodies:
    """`ports.bodies.Bodies` in one SQLite file."""

    def __init__(self, path: Path, writing: WritingThread) -> None:
        self._path = path
        self._writing = writing
        self._writer = self._open()
        self._writer.executescript(_SCHEMA)
        self._reading = ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="bodies")
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = [self._writer]

    def close(self) -> None:
        """Close every connection; call it after the writing thread has stopped."""
        self._reading.shutdown()
        for connection in self._opened:
            connection.close()

    async def keep(self, bodies: Sequence[Body]) -> None:
        """See `ports.bodies`."""
        rows = [
            (
                *body.key,
                body.content.size,
                body.content.sha256,
                body.raw.size,
                body.raw.sha256,
                body.content.zstd,
                body.raw.zstd,
            )
            for body in bodies
        ]
        attachments = [
            (*body.key, name, position, blob.size, blob.sha256, blob.zstd)
            for body in bodies
            for position, (name, blob) in enumerate(body.attachments)
        ]

        def keep(connection: sqlite3.Connection) -> None:
            connection.executemany(_KEEP_BODY, rows)
            if attachments:
                connection.executemany(_KEEP_ATTACHMENT, attachments)

        await self._write(keep)

    async def raw(self, key: BodyKey) -> Blob | None:
        """See `ports.bodies`."""
        return await self._blob(f"SELECT raw, raw_size, raw_sha256 FROM bodies {_OF_KEY}", key)

    async def content(self, key: BodyKey) -> Blob | None:
        """See `ports.bodies`."""
        return await self._blob(
            f"SELECT content, content_size, content_sha256 FROM bodies {_OF_KEY}", key
        )

    async def attachment(self, key: BodyKey, attachment_id: str) -> Blob | None:
        """See `ports.bodies`."""
        return await self._blob(
            f"SELECT data, size, sha256 FROM attachments {_OF_KEY} AND id = ?",
            (*key, attachment_id),
        )

    async def parts(self, key: BodyKey) -> Parts | None:
        """See `ports.bodies`."""
        blobs = (
            "SELECT raw, raw_size, raw_sha256, content, content_size, content_sha256"
            f" FROM bodies {_OF_KEY}"
        )
        names = f"SELECT id FROM attachments {_OF_KEY} ORDER BY position"

        def read(connection: sqlite3.Connection) -> Parts | None:
            row = connection.execute(blobs, key).fetchone()
            if row is None:
                return None
            kept = [name for (name,) in connection.execute(names, key)]
            return Parts(Blob(*row[:3]), Blob(*row[3:]), kept)

        return await self._read(read)

    async def delete(self, keys: Sequence[BodyKey]) -> None:
        """See `ports.bodies`."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.executemany(f"DELETE FROM attachments {_OF_KEY}", keys)
            connection.executemany(f"DELETE FROM bodies {_OF_KEY}", keys)

        await self._write(delete)

    async def keys(self, after: BodyKey | None, most: int) -> list[BodyKey]:
        """See `ports.bodies`."""
        query = (
            "SELECT ingest_id, organisation_id FROM bodies"
            " WHERE (ingest_id, organisation_id) > (?, ?)"
            " ORDER BY ingest_id, organisation_id LIMIT ?"
        )
        start = after or (b"", b"")
        return await self._read(
            lambda connection: [
                BodyKey(IngestId(ingest), OrganisationId(organisation))
                for ingest, organisation in connection.execute(query, (*start, most))
            ]
        )

    async def shrink(self, pages: int) -> int:
        """Give free pages of the file back to the disk; tell how many."""
        return await self._writing.submit(lambda: shrink(self._writer, pages))

    async def _blob(self, query: str, values: Sequence[object]) -> Blob | None:
        row = await self._read(lambda connection: connection.execute(query, values).fetchone())
        return None if row is None else Blob(zstd=row[0], size=row[1], sha256=row[2])

    async def _write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        def run() -> None:
            # `with connection` commits, or rolls back when anything fails, the commit included.
            with driver_errors(), self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                work(self._writer)

        await self._writing.submit(run)

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._open()
                self._opened.append(connection)
            with driver_errors():
                return query(connection)

        return await asyncio.get_running_loop().run_in_executor(self._reading, run)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        prepare(connection, BLOB_PAGE_OCTETS)
        return connection
