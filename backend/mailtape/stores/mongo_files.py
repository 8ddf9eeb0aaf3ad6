"""Files larger than a document should be, in the layout of GridFS.

What lies on the server is GridFS: `NAME.files` and `NAME.chunks` as its specification has them, so
its tools and drivers read it. It is written otherwise than the driver's own bucket does, which
refuses a file of which a chunk is there, so that an upload that was cut off stays in the way of
the next, and two uploads of one file spoil each other:

* The document of the file comes first and goes last: whatever is there of a file is named by it.
* A chunk's `_id` follows from the file's and its number, so writing again fills what is missing.
* A file is read only when every chunk is there.

The same id must always come with the same bytes.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from pymongo import ASCENDING

from mailtape.stores.mongo_connection import (
    Collection,
    Database,
    Document,
    delete_all,
    driver_errors,
    insert_missing,
)

_CHUNK_OCTETS = 2**20
"""GridFS takes 255 kB unless told; a quarter of the documents makes a quarter of the waits."""
_GROUP = 4
"""Chunks a command: what is in memory a second time, encoded, and synced within its time."""


class MongoFiles:
    """Named byte strings of any length in one GridFS bucket."""

    def __init__(self, database: Database, bucket: str) -> None:
        self.entries: Collection = database[f"{bucket}.files"]
        self._chunks: Collection = database[f"{bucket}.chunks"]

    async def prepare(self) -> None:
        """Make the collections and the indexes of GridFS; what is there stays.

        Raises:
            Unavailable: it could not be done.
        """
        with driver_errors():
            await self.entries.create_index([("filename", ASCENDING), ("uploadDate", ASCENDING)])
            await self._chunks.create_index(
                [("files_id", ASCENDING), ("n", ASCENDING)], unique=True
            )

    async def put(self, file_id: str, data: bytes) -> None:
        """Keep a file, or what is missing of it; durable on return.

        Raises:
            StoreFull: the disk is full; some chunks may have been kept.
            Unavailable: it could not be made certain.
        """
        entry: Document = {
            "_id": file_id,
            "length": len(data),
            "chunkSize": _CHUNK_OCTETS,
            "uploadDate": datetime.now(UTC),
            "filename": file_id,
        }
        starts = range(0, len(data), _CHUNK_OCTETS)
        with driver_errors():
            await insert_missing(self.entries, [entry])
            for first in range(0, len(starts), _GROUP):
                group: list[Document] = [
                    {
                        "_id": f"{file_id}/{number}",
                        "files_id": file_id,
                        "n": number,
                        "data": data[start : start + _CHUNK_OCTETS],
                    }
                    for number, start in enumerate(starts[first : first + _GROUP], start=first)
                ]
                await insert_missing(self._chunks, group)

    async def get(self, file_id: str) -> bytes | None:
        """Fetch a file; None when it is not there or not whole.

        Raises:
            Unavailable: it cannot be read.
        """
        with driver_errors():
            entry = await self.entries.find_one({"_id": file_id})
            if entry is None:
                return None
            pieces: list[bytes] = []
            for chunk_id in _chunk_ids(entry):
                chunk = await self._chunks.find_one({"_id": chunk_id}, {"data": 1})
                if chunk is None:
                    return None
                pieces.append(chunk["data"])
        data = b"".join(pieces)
        return data if len(data) == entry["length"] else None

    async def octets(self) -> int:
        """Tell how long all files are together; looks at the document of each.

        Raises:
            Unavailable: it cannot be read.
        """
        grouped = [{"$group": {"_id": None, "octets": {"$sum": "$length"}}}]
        with driver_errors():
            async with await self.entries.aggregate(grouped) as found:
                return sum([group["octets"] async for group in found])

    async def delete(self, file_ids: Sequence[str]) -> None:
        """Remove these files, whole or cut off; those that are gone already are no error.

        Raises:
            Unavailable: some may be left.
        """
        with driver_errors():
            for file_id in file_ids:
                entry = await self.entries.find_one({"_id": file_id})
                if entry is not None:
                    await delete_all(self._chunks, _chunk_ids(entry), _GROUP)
                    await delete_all(self.entries, [file_id], 1)


def _chunk_ids(entry: Document) -> list[str]:
    chunks = -(-entry["length"] // entry["chunkSize"])
    return [f"{entry['_id']}/{number}" for number in range(chunks)]
