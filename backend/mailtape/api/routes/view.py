"""`/view/{signature}/…`: one message for a frame that can send no header.

The signature is the right; stored HTML names its images as `attachments/{aid}` relative to it.
"""

from fastapi import APIRouter, Response

from mailtape.api import untrusted
from mailtape.api.deps import GivenParts, Now, Parts
from mailtape.api.errors import responses
from mailtape.domain.errors import NotFound, Unavailable
from mailtape.services import messages, views

router = APIRouter(
    prefix="/view/{signature}", tags=["Messages"], responses=responses(NotFound, Unavailable)
)


@router.get("/html", response_class=Response)
async def view_html(parts: GivenParts, now: Now, signature: str) -> Response:
    """Show a message as a page; one without HTML shows its text."""
    view = _read(parts, now, signature)
    content = await messages.content(
        parts.database, parts.bodies, view.organisation_id, view.message_id
    )
    return untrusted.page(content)


@router.get("/attachments/{aid}", response_class=Response)
async def view_attachment(parts: GivenParts, now: Now, signature: str, aid: str) -> Response:
    """Give an attachment or inline part."""
    view = _read(parts, now, signature)
    facts, blob = await messages.attachment(
        parts.database, parts.bodies, view.organisation_id, view.message_id, aid
    )
    return untrusted.attachment(facts, blob)


def _read(parts: Parts, now: Now, signature: str) -> views.View:
    return views.read(parts.settings.keys.jwt_secret, signature, now_s=int(now.timestamp()))
