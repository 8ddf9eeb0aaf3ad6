"""Claims as files in MongoDB; see `stores.mongo_files` for how one is written and read.

The document of the file is the claim: it comes first, so the sweep finds what was cut off, and
it goes last. Its id is the ingest id in hexadecimal, so order by id is order of acceptance.
"""

from collections.abc import Sequence
from datetime import datetime

from pymongo import ASCENDING

from mailtape.domain.ids import IngestId
from mailtape.stores.mongo_connection import Database, driver_errors
from mailtape.stores.mongo_files import MongoFiles

_BUCKET = "claims"


class MongoClaims:
    """`ports.claims.Claims` in one GridFS bucket."""

    def __init__(self, database: Database) -> None:
        self._files = MongoFiles(database, _BUCKET)

    async def prepare(self) -> None:
        """Make what the server must have before the first claim; what is there stays.

        Raises:
            Unavailable: it could not be done.
        """
        await self._files.prepare()

    async def keep(self, ingest_id: IngestId, raw: bytes) -> None:
        """See `ports.claims`."""
        await self._files.put(ingest_id.hex(), raw)

    async def fetch(self, ingest_id: IngestId) -> bytes | None:
        """See `ports.claims`."""
        return await self._files.get(ingest_id.hex())

    async def delete(self, ingest_ids: Sequence[IngestId]) -> None:
        """See `ports.claims`."""
        await self._files.delete([ingest_id.hex() for ingest_id in ingest_ids])

    async def octets(self) -> int:
        """See `ports.claims`."""
        return await self._files.octets()

    async def older_than(
        self, instant: datetime, most: int, after: IngestId | None = None
    ) -> list[IngestId]:
        """See `ports.claims`."""
        milliseconds = int(instant.timestamp() * 1000).to_bytes(6, "big")
        bounds = {"$lt": milliseconds.hex(), "$gt": "" if after is None else after.hex()}
        with driver_errors():
            named = (
                self._files.entries.find({"_id": bounds}, {"_id": 1})
                .sort("_id", ASCENDING)
                .limit(most)
            )
            return [IngestId(bytes.fromhex(entry["_id"])) async for entry in named]
