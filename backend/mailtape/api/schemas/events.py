"""Events as the stream shows them."""

from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from mailtape.api.schemas.messages import MessageItem
from mailtape.domain import ids
from mailtape.domain.event import StoredEvent


class Refused(BaseModel):
    """Mail that an address was not given."""

    address: str
    reason: str = Field(description="A stable code, such as `monthly_mails`.")
    minute: AwareDatetime = Field(description="The minute in which it happened.")
    count: int = Field(description="How often within it.")


class EventData(BaseModel):
    """The `data` of one event."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: str = Field(description="The same as `event`.")
    sequence: int = Field(description="The same as `id`.")
    id: str = Field(description="The message's id; of a refusal its own.")
    created_at: AwareDatetime
    message: MessageItem | None = Field(
        description="As lists show it; null once it is deleted, and where the event is about none."
    )
    refused: Refused | None = Field(description="What a `message.refused` tells of.")

    @classmethod
    def of(cls, event: StoredEvent) -> Self:
        """Show an event."""
        return cls(
            type=event.kind,
            sequence=event.sequence,
            id=ids.to_text(event.message_id),
            created_at=event.created_at,
            message=None if event.message is None else MessageItem.of(event.message),
            refused=None
            if event.refused is None
            else Refused.model_validate(event.refused, from_attributes=True),
        )
