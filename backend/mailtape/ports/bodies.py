"""The store of bodies: raw bytes, what was understood of them, and decoded attachments.

A body is kept once for each (ingest id, organisation) and never shared between organisations.

Promises of every implementation:

* When `keep` returns, every part of every body is on disk and synced. Keeping the same body twice
  is keeping it once, so a replay does no harm.
* The raw bytes come back exactly as they went in.
* A body goes only by `delete`, whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mailtape.domain.ids import IngestId, OrganisationId


class BodyKey(NamedTuple):
    """Whose copy of which transaction's bytes."""

    ingest_id: IngestId
    organisation_id: OrganisationId


@dataclass(frozen=True, slots=True)
class Blob:
    """Compressed bytes, and the length and sha256 (raw digest) of what they unpack to."""

    zstd: bytes
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """Everything kept of one mail for one organisation."""

    key: BodyKey
    raw: Blob
    content: Blob
    """`domain.message.Content`, encoded by `services.processing`."""
    attachments: tuple[tuple[str, Blob], ...]
    """Attachment id and bytes, in the order of the mail."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What is there of a body, in one look; a part that was lost is None."""

    raw: Blob | None
    content: Blob | None
    attachment_ids: list[str]
    """Of those that are kept with it, in the order of the mail."""


class Bodies(Protocol):
    """See the module's docstring for what holds of all of these."""

    async def keep(self, bodies: Sequence[Body]) -> None:
        """Keep these; durable on return.

        Raises:
            StoreFull: the disk is full; some may have been kept.
            Unavailable: it could not be made certain.
        """

    async def raw(self, key: BodyKey) -> Blob | None:
        """Fetch the raw bytes of a body."""

    async def content(self, key: BodyKey) -> Blob | None:
        """Fetch what was understood of a body."""

    async def attachment(self, key: BodyKey, attachment_id: str) -> Blob | None:
        """Fetch one attachment."""

    async def parts(self, key: BodyKey) -> Parts | None:
        """Fetch a body but for its attachments, which are named; None when nothing is kept."""

    async def delete(self, keys: Sequence[BodyKey]) -> None:
        """Remove these bodies whole; those that are gone already are no error."""

    async def keys(self, after: BodyKey | None, most: int) -> list[BodyKey]:
        """Name kept bodies in order of their key, for sweeps and checks."""
