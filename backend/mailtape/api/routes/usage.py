"""`GET /usage`: what an organisation has used this month."""

from typing import Annotated

from fastapi import APIRouter, Query

from mailtape.api.auth import UsageRead
from mailtape.api.deps import GivenParts, Now, read_id
from mailtape.api.errors import responses
from mailtape.api.schemas.usage import UsageReport
from mailtape.domain.errors import NotFound, Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.services import usage

router = APIRouter(tags=["Usage"])


@router.get("/usage", responses=responses(NotFound, Unavailable))
async def get_usage(
    parts: GivenParts,
    principal: UsageRead,
    now: Now,
    org_uuid: Annotated[
        str | None, Query(description="Another organisation's, for platform administrators.")
    ] = None,
) -> UsageReport:
    """Report on the current month, in UTC."""
    organisation_id = principal.organisation_id
    if org_uuid is not None:
        organisation_id = OrganisationId(read_id(org_uuid))
    if organisation_id != principal.organisation_id and not principal.platform_admin:
        raise NotFound("There is no such organisation.")
    return UsageReport.of(await usage.report(parts.database, parts.calls, organisation_id, now=now))
