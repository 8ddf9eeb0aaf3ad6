"""What `POST /ingest` answered to a request that named itself, so that a repeat hears the same."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.rows.base import Digest, Id, Row
from mailtape.rows.bulk import delete_some


class IngestReceipt(Row):
    """One answer, under the caller's organisation and the hash of its Idempotency-Key."""

    __tablename__ = "ingest_receipts"

    organisation_id: Mapped[bytes] = mapped_column(Id, primary_key=True)
    key_hash: Mapped[bytes] = mapped_column(Digest, primary_key=True)
    request_hash: Mapped[bytes] = mapped_column(Digest)
    """Of everything that makes it the same request."""
    ingest_id: Mapped[bytes] = mapped_column(Id)
    statuses: Mapped[list[Any]] = mapped_column(JSON)
    """Recipients and what each was told, in order."""
    created_at: Mapped[datetime] = mapped_column(index=True)


def find(
    session: Session, organisation_id: OrganisationId, key_hash: bytes
) -> IngestReceipt | None:
    """Read the answer that a key got; None when it is new."""
    return session.get(IngestReceipt, (organisation_id, key_hash))


def add(
    session: Session,
    organisation_id: OrganisationId,
    key_hash: bytes,
    *,
    request_hash: bytes,
    ingest_id: IngestId,
    statuses: list[list[str]],
    now: datetime,
) -> None:
    """Keep an answer; of two requests at the same moment the first one's stays."""
    if find(session, organisation_id, key_hash) is None:
        session.add(
            IngestReceipt(
                organisation_id=organisation_id,
                key_hash=key_hash,
                request_hash=request_hash,
                ingest_id=ingest_id,
                statuses=statuses,
                created_at=now,
            )
        )


def forget(session: Session, before: datetime, most: int) -> int:
    """Delete up to so many answers that are older; tell how many."""
    return delete_some(session, IngestReceipt, IngestReceipt.created_at < before, most)
