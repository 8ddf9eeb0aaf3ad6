"""The store of large raw mail that is kept before it is queued.

A queue that is a broker should not carry megabytes, so the raw bytes of a large mail are claimed
here first and the queued envelope stands for them.

Promises of every implementation:

* When `keep` returns, the raw bytes are on disk and synced. Keeping a mail twice is keeping it
  once; a keep that was cut off is finished by the next one.
* What was cut off is never fetched: it is whole or it is not there.
* A claim goes only by `delete`. One that no queued mail needs is found by its age.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from mailtape.domain.ids import IngestId


class Claims(Protocol):
    """See the module's docstring for what holds of all of these."""

    async def keep(self, ingest_id: IngestId, raw: bytes) -> None:
        """Keep a mail's raw bytes; durable on return.

        The same ingest id always comes with the same bytes.

        Raises:
            StoreFull: the disk is full; some of it may have been kept.
            Unavailable: it could not be made certain.
        """

    async def fetch(self, ingest_id: IngestId) -> bytes | None:
        """Fetch the raw bytes; None when they were never wholly kept, or are deleted.

        Raises:
            Unavailable: the store cannot be read.
        """

    async def delete(self, ingest_ids: Sequence[IngestId]) -> None:
        """Remove these claims whole; those that are gone already are no error.

        Raises:
            Unavailable: some may be left.
        """

    async def octets(self) -> int:
        """Tell how many raw bytes are kept, of cut-off claims as if they were whole.

        Raises:
            Unavailable: the store cannot be read.
        """

    async def older_than(
        self, instant: datetime, most: int, after: IngestId | None = None
    ) -> list[IngestId]:
        """Name claims of mails accepted before an instant, oldest first, cut-off ones included.

        The time is that in the ingest id, which is a UUIDv7. `after` begins behind a claim that
        was named before.

        Raises:
            Unavailable: the store cannot be read.
        """
