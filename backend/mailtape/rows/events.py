"""Events: one for every stored message, numbered without holes within its organisation."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from mailtape.rows.base import Id, Row

MESSAGE_STORED = "message.stored"


class Event(Row):
    """Something that happened in an organisation; committed with the row it tells of."""

    __tablename__ = "events"

    organisation_id: Mapped[bytes] = mapped_column(Id, primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(32))
    message_id: Mapped[bytes] = mapped_column(Id)
    period: Mapped[str] = mapped_column(String(7))
    """The month that the message counts in."""
    created_at: Mapped[datetime]
