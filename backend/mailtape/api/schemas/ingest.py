"""The answer to mail handed over by HTTP."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from mailtape.domain import ids
from mailtape.domain.ids import IngestId
from mailtape.services.ingest import RecipientStatus


class RecipientSchema(BaseModel):
    """What became of one recipient."""

    address: str
    status: str = Field(description="`accepted`, or the reply that SMTP gives.")


class IngestReceipt(BaseModel):
    """The mail is durable for every recipient that was accepted."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "019aa54e-6a10-7d02-8a11-6b0f3e9c4d21",
                "recipients": [
                    {"address": "qa@mail.example.com", "status": "accepted"},
                    {"address": "nobody@example.org", "status": "550 5.1.1 No such mailbox"},
                ],
            }
        }
    )

    id: str = Field(description="The `transaction` of the messages it becomes.")
    recipients: list[RecipientSchema]

    @classmethod
    def of(cls, ingest_id: IngestId, recipients: tuple[RecipientStatus, ...]) -> Self:
        """Show what became of a mail."""
        shown = [RecipientSchema(address=r.address, status=r.status) for r in recipients]
        return cls(id=ids.to_text(ingest_id), recipients=shown)
