"""A body of which most lies in GridFS, and a process that keeps it: `python -m` with URL, database.

The same seed makes the same body, so what one process began another can end.
"""

import asyncio
import hashlib
import random
import sys

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.ports.bodies import Blob, Body, BodyKey
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_connection import open_client


def a_large_body(seed: int, raw: int = 12, attachment: int = 9) -> Body:
    """Sizes in mebibytes; both are more than a document may hold."""
    chance = random.Random(seed)
    key = BodyKey(IngestId(chance.randbytes(16)), OrganisationId(chance.randbytes(16)))
    raw_blob = _blob(chance.randbytes(raw * 2**20))
    attachments = (
        ("1", _blob(chance.randbytes(attachment * 2**20))),
        ("2", _blob(b"\x00\xff" * 1000)),
    )
    return Body(key, raw_blob, _blob(chance.randbytes(3000)), attachments)


def _blob(data: bytes) -> Blob:
    return Blob(data, len(data), hashlib.sha256(data).digest())


async def _keep(url: str, database: str, seed: int) -> None:
    client = open_client(url)
    await MongoBodies(client[database]).keep([a_large_body(seed)])
    await client.close()


if __name__ == "__main__":
    asyncio.run(_keep(sys.argv[1], sys.argv[2], int(sys.argv[3])))
