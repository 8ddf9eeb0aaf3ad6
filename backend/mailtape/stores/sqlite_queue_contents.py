"""What lies in the queue's file, looked at from outside of the process that owns it.

For checks only: nothing is leased, nothing is changed, and a mail may be gone a moment later.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from mailtape.domain.ids import IngestId
from mailtape.rows.sqlite_database import driver_errors
from mailtape.stores.queue_encoding import decode

_PAGE = 500
_MAILS = (
    "SELECT number, ingest_id, envelope, length(raw) FROM mail WHERE number > ?"
    " ORDER BY number LIMIT ?"
)


class QueuedMail(NamedTuple):
    """A queued mail as it lies on disk."""

    number: int
    ingest_id: IngestId
    stated_size: int | None
    """The raw size that its envelope says; None when the envelope cannot be read."""
    size: int


def contents(path: Path) -> Iterator[QueuedMail]:
    """List what waits, is leased or is parked, in order of arrival.

    Raises:
        Unavailable: the file cannot be read.
    """
    after = 0
    with driver_errors(), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        while page := connection.execute(_MAILS, (after, _PAGE)).fetchall():
            for number, ingest_id, envelope, size in page:
                yield QueuedMail(number, IngestId(ingest_id), _stated_size(envelope), size)
            after = page[-1][0]


def _stated_size(encoded: bytes) -> int | None:
    envelope = decode(encoded)
    return None if envelope is None else envelope.size
