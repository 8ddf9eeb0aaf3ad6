"""The queue of accepted mail: what 250 stands on.

Promises of every implementation:

* When `put` returns, envelope and raw bytes are on disk and synced. When it raises, the caller
  must answer "try again": the mail may still appear, once.
* A leased mail is offered to nobody else until it is acknowledged, retried, parked, released, or
  its lease runs out; then it is offered again. So everything after `lease` may happen twice.
* Nothing leaves the queue but by `acknowledge` or, for parked mail, by `drop`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mailtape.domain.envelope import Envelope
from mailtape.domain.ids import IngestId


@dataclass(frozen=True, slots=True)
class Leased:
    """A mail in the hands of one worker."""

    receipt: int
    """What to give back to the queue; means nothing to anybody else."""
    envelope: Envelope
    raw: bytes
    tries: int
    """How often this mail was tried before and failed by its own doing."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A mail that could not be stored and waits for a person."""

    receipt: int
    """Names it for as long as it is parked, in every process; a lease's receipt may not."""
    envelope: Envelope
    reason: str


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How much stands where."""

    waiting: int
    leased: int
    parked: int


class Queue(Protocol):
    """See the module's docstring for what holds of all of these."""

    async def put(self, envelope: Envelope, raw: bytes) -> None:
        """Keep a mail; durable on return.

        Raises:
            StoreFull: the queue has reached its bound or the disk is full.
            Unavailable: it could not be made certain.
        """

    async def lease(self, most: int, most_bytes: int) -> list[Leased]:
        """Take the oldest waiting mails, waiting until there is one.

        At most `most` come, and no more than fit into `most_bytes`; a larger mail comes alone.
        """

    async def acknowledge(self, receipts: Sequence[int]) -> None:
        """Forget these mails: their bodies and rows are durable elsewhere."""

    async def release(self, receipts: Sequence[int]) -> None:
        """Give these back unharmed: something of ours failed, not the mail."""

    async def retry(self, receipt: int, after_seconds: float) -> None:
        """Count a failed try against this mail and offer it again after a while."""

    async def park(self, receipt: int, reason: str) -> None:
        """Set this mail aside for a person."""

    async def parked(self, most: int) -> list[Parked]:
        """List what is set aside, oldest first."""

    async def parked_raw(self, receipt: int) -> bytes | None:
        """Fetch the raw bytes of a parked mail; None when there is no such mail."""

    async def unpark(self, receipt: int) -> bool:
        """Offer a parked mail again with its tries forgotten; False when there is none."""

    async def unpark_some(self, most: int) -> int:
        """Offer up to so many parked mails again with their tries forgotten; tell how many.

        Fewer than are parked when there is room for no more.

        Raises:
            StoreFull: there is no room for any.
            Unavailable: some may be parked and offered.
        """

    async def drop(self, receipt: int) -> bool:
        """Forget a parked mail for good; False when there is none."""

    async def check_room(self) -> None:
        """Pass when a mail would be kept now.

        Raises:
            StoreFull: the queue has reached its bound, or the disk is nearly full.
            Unavailable: it cannot be told.
        """

    async def depth(self) -> QueueDepth:
        """Count what waits, is leased and is parked; leases of other processes may stay unseen.

        Raises:
            Unavailable: it cannot be told.
        """

    async def named(self, ingest_ids: Sequence[IngestId]) -> set[IngestId]:
        """Tell which of these are waiting, leased or parked: no sweep may take their body.

        Who cannot tell names too many, never too few.

        Raises:
            Unavailable: it cannot be told.
        """
