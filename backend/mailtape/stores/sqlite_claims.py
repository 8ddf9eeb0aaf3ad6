"""Claims of large raw mail in a SQLite file, for one process whose queue is a broker."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from mailtape.domain.ids import IngestId
from mailtape.rows.sqlite_database import BLOB_PAGE_OCTETS, driver_errors, prepare
from mailtape.rows.writing_thread import WritingThread

_SCHEMA = "CREATE TABLE IF NOT EXISTS claims (ingest_id BLOB NOT NULL UNIQUE, raw BLOB NOT NULL)"


class SqliteClaims:
    """`ports.claims.Claims` in one SQLite file; all of it happens on the writing thread."""

    def __init__(self, path: Path, writing: WritingThread) -> None:
        self._writing = writing
        self._connection = sqlite3.connect(path, check_same_thread=False)
        prepare(self._connection, BLOB_PAGE_OCTETS)
        self._connection.execute(_SCHEMA)

    def close(self) -> None:
        """Close the file; call it after the writing thread has stopped."""
        self._connection.close()

    async def keep(self, ingest_id: IngestId, raw: bytes) -> None:
        """See `ports.claims`."""
        await self._run(
            lambda: self._connection.execute(
                "INSERT OR IGNORE INTO claims VALUES (?, ?)", (ingest_id, raw)
            )
        )

    async def fetch(self, ingest_id: IngestId) -> bytes | None:
        """See `ports.claims`."""
        found = await self._run(
            lambda: self._connection.execute(
                "SELECT raw FROM claims WHERE ingest_id = ?", (ingest_id,)
            )
        )
        return found[0][0] if found else None

    async def delete(self, ingest_ids: Sequence[IngestId]) -> None:
        """See `ports.claims`."""
        await self._run(
            lambda: self._connection.executemany(
                "DELETE FROM claims WHERE ingest_id = ?", [(each,) for each in ingest_ids]
            )
        )

    async def octets(self) -> int:
        """See `ports.claims`."""
        found = await self._run(
            lambda: self._connection.execute("SELECT COALESCE(SUM(LENGTH(raw)), 0) FROM claims")
        )
        return int(found[0][0])

    async def older_than(
        self, instant: datetime, most: int, after: IngestId | None = None
    ) -> list[IngestId]:
        """See `ports.claims`."""
        before = int(instant.timestamp() * 1000).to_bytes(6, "big")
        found = await self._run(
            lambda: self._connection.execute(
                "SELECT ingest_id FROM claims WHERE ingest_id < ? AND ingest_id > ?"
                " ORDER BY ingest_id LIMIT ?",
                (before, after or b"", most),
            )
        )
        return [IngestId(ingest_id) for (ingest_id,) in found]

    async def _run(self, statement: Callable[[], sqlite3.Cursor]) -> list[tuple[bytes]]:
        """Run a statement, which is a transaction by itself and synced when it is done."""

        def run() -> list[tuple[bytes]]:
            with driver_errors():
                return statement().fetchall()

        return await self._writing.submit(run)
