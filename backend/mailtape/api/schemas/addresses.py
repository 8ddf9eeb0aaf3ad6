"""Addresses that take mail."""

from pydantic import BaseModel, ConfigDict, Field

from mailtape.api.schemas.values import Moment
from mailtape.domain import ids
from mailtape.rows.addresses import Address


class AddressRequest(BaseModel):
    """An address to be taken."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"local_part": "checkout-tests"}]})

    local_part: str | None = Field(
        default=None,
        max_length=64,
        description="What stands before the at-sign, without a plus-tag; made up when absent.",
    )


class AddressView(BaseModel):
    """An address of the organisation."""

    uuid: str
    address: str
    created_at: Moment

    @classmethod
    def of(cls, row: Address) -> "AddressView":
        """Show an address."""
        return cls(uuid=ids.to_text(row.id), address=row.address, created_at=row.created_at)
