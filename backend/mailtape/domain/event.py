"""Events: what happened in an organisation, numbered without holes."""

from dataclasses import dataclass
from datetime import datetime

from mailtape.domain.ids import MessageId
from mailtape.domain.message import Listed


@dataclass(frozen=True, slots=True)
class RefusedMail:
    """What was refused at one address, for one reason, within one minute."""

    address: str
    reason: str
    minute: datetime
    """Its beginning, in UTC."""
    count: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event. It outlives its message, so that nobody who resumes meets a hole."""

    sequence: int
    kind: str
    message_id: MessageId
    created_at: datetime
    message: Listed | None
    """The message as it is now; None once it is deleted, and where the event is about none."""
    refused: RefusedMail | None = None
