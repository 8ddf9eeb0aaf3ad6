"""Addresses that take mail."""

from fastapi import APIRouter

from mailtape.api.auth import AddressesRead, AddressesWrite
from mailtape.api.deps import GivenParts, Now, read_id
from mailtape.api.errors import responses
from mailtape.api.paging import Page, PageParams, page_of
from mailtape.api.schemas.addresses import AddressRequest, AddressView
from mailtape.domain.errors import Conflict, NotFound
from mailtape.domain.ids import AddressId
from mailtape.services import addresses

router = APIRouter(prefix="/addresses", tags=["Addresses"])


@router.get("")
async def list_addresses(
    principal: AddressesRead, parts: GivenParts, page: PageParams
) -> Page[AddressView]:
    """List the organisation's addresses, newest first."""
    found = await addresses.find(
        parts.database, principal.organisation_id, after=page.after, most=page.fetch
    )
    return page_of(found, page, key=lambda row: row.id, show=AddressView.of)


@router.post("", status_code=201, responses=responses(Conflict))
async def create_address(
    principal: AddressesWrite, parts: GivenParts, now: Now, body: AddressRequest | None = None
) -> AddressView:
    """Take an address; `address+anything` reaches it too.

    `address_taken` when somebody has it or had it; `tier_limit_reached` when the organisation has
    as many as its tier allows.
    """
    row = await addresses.create(
        parts.database,
        parts.recipients,
        principal.organisation_id,
        local_part=body.local_part if body else None,
        domain=parts.settings.domain,
        now=now,
    )
    return AddressView.of(row)


@router.delete("/{uuid}", status_code=204, responses=responses(NotFound))
async def delete_address(uuid: str, principal: AddressesWrite, parts: GivenParts, now: Now) -> None:
    """Give an address up: it takes no more mail, and nobody else will ever get it."""
    await addresses.delete(
        parts.database,
        parts.recipients,
        principal.organisation_id,
        AddressId(read_id(uuid)),
        now=now,
    )
