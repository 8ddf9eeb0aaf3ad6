"""`/messages`: the mail that has arrived. Reading changes nothing, not even `read`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mailtape.api import untrusted
from mailtape.api.auth import MessagesRead, MessagesWrite, check_still_allowed
from mailtape.api.connection import while_connected
from mailtape.api.deps import GivenParts, Now, Parts, read_id
from mailtape.api.errors import responses
from mailtape.api.message_query import MessageFilters
from mailtape.api.paging import Page, PageParams, encode_cursor
from mailtape.api.schemas.messages import (
    DeletedCount,
    MessageChange,
    MessageCount,
    MessageDetail,
    MessageItem,
    page_json,
)
from mailtape.domain.account import Principal
from mailtape.domain.errors import Invalid, NotFound, NotSupported, TooMany, Unavailable
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.metrics import HTTP_STREAMS
from mailtape.ports.bodies import Bodies
from mailtape.rows.database import Database
from mailtape.services import messages, views

router = APIRouter(prefix="/messages", tags=["Messages"])

_READING = responses(NotFound, Unavailable)
_DEFAULT_WAIT = 30


@router.get("", response_model=Page[MessageItem], responses=responses(Unavailable))
async def list_messages(
    parts: GivenParts, principal: MessagesRead, query: MessageFilters, page: PageParams
) -> Response:
    """List messages, newest first.

    In order of acceptance; with `q` or with a sequence in `since` or `before`, in order of storing.
    """
    found = await messages.find(
        parts.database, principal.organisation_id, query, limit=page.limit, after=page.after
    )
    next_cursor = None if found.next is None else encode_cursor(found.next)
    return Response(page_json(found.items, next_cursor), media_type="application/json")


@router.get("/count", responses=responses(Unavailable))
async def count_messages(
    parts: GivenParts, principal: MessagesRead, query: MessageFilters
) -> MessageCount:
    """Count the messages that match."""
    count = await messages.count(parts.database, principal.organisation_id, query)
    return MessageCount(count=count)


@router.get(
    "/wait",
    response_model=MessageItem,
    responses={**responses(TooMany, Unavailable), 204: {"description": "None came in time."}},
)
async def wait_for_message(
    request: Request,
    parts: GivenParts,
    principal: MessagesRead,
    query: MessageFilters,
    timeout: Annotated[  # noqa: ASYNC109 - the name that clients use
        float, Query(ge=0, description="Seconds to wait.", allow_inf_nan=False)
    ] = _DEFAULT_WAIT,
    extract: Annotated[str | None, Query(description="Not supported yet.")] = None,
) -> MessageItem | Response:
    """Give the first message that matches: the oldest that is there, or the next one to arrive.

    Answered the moment a message is stored. Give `since` the `sequence` of a message to wait for
    what comes after it.
    """
    if extract is not None:
        raise NotSupported("extract is not supported yet.")
    limit = parts.settings.wait_limit.total_seconds()
    if timeout > limit:
        raise Invalid(f"timeout is at most {limit:g} seconds.", field="timeout")
    waiting = messages.wait(
        parts.database,
        parts.wakeups,
        principal.organisation_id,
        query,
        seconds=timeout,
        check=lambda: check_still_allowed(request, parts, principal),
    )
    with HTTP_STREAMS.track_inprogress():
        found = await while_connected(request, waiting)
    return Response(status_code=204) if found is None else MessageItem.of(found)


@router.get("/{message_id}", responses=_READING)
async def get_message(
    parts: GivenParts, principal: MessagesRead, message_id: str, now: Now
) -> MessageDetail:
    """Open a message. It stays unread."""
    opened = await messages.get(
        parts.database, parts.bodies, principal.organisation_id, _message_id(message_id)
    )
    view = views.View(principal.organisation_id, opened.message.id)
    signature = views.sign(parts.settings.keys.jwt_secret, view, now_s=int(now.timestamp()))
    return MessageDetail.of(opened, view_url=f"{parts.settings.backend_url}/view/{signature}/html")


@router.get("/{message_id}/raw", responses=_READING, response_class=Response)
async def get_raw(parts: GivenParts, principal: MessagesRead, message_id: str) -> Response:
    """Download the mail, byte for byte what arrived in DATA."""
    blob = await messages.raw(*_of(parts, principal, message_id))
    return untrusted.raw(blob, message_id)


@router.get("/{message_id}/html", responses=_READING, response_class=Response)
async def get_html(parts: GivenParts, principal: MessagesRead, message_id: str) -> Response:
    """Show the message as a page; one without HTML shows its text."""
    return untrusted.page(await messages.content(*_of(parts, principal, message_id)))


@router.get("/{message_id}/text", responses=_READING, response_class=Response)
async def get_text(parts: GivenParts, principal: MessagesRead, message_id: str) -> Response:
    """Read the message's text; one of HTML alone gives the text of it."""
    return untrusted.text(await messages.content(*_of(parts, principal, message_id)))


@router.get("/{message_id}/attachments/{aid}", responses=_READING, response_class=Response)
async def get_attachment(
    parts: GivenParts, principal: MessagesRead, message_id: str, aid: str
) -> Response:
    """Download an attachment, decoded."""
    facts, blob = await messages.attachment(*_of(parts, principal, message_id), aid)
    return untrusted.attachment(facts, blob)


@router.patch("/{message_id}", responses=_READING)
async def change_message(
    parts: GivenParts, principal: MessagesWrite, message_id: str, change: MessageChange
) -> MessageItem:
    """Mark a message read or unread, or set its tags."""
    changed = await messages.update(
        parts.database,
        principal.organisation_id,
        _message_id(message_id),
        read=change.read,
        tags=change.tags,
    )
    return MessageItem.of(changed)


@router.delete("/{message_id}", status_code=204, responses=_READING)
async def delete_message(
    parts: GivenParts, principal: MessagesWrite, message_id: str, now: Now
) -> None:
    """Delete a message for good."""
    await messages.delete(*_of(parts, principal, message_id), now=now)


@router.delete("", responses=responses(Unavailable))
async def delete_messages(
    parts: GivenParts,
    principal: MessagesWrite,
    query: MessageFilters,
    now: Now,
    everything: Annotated[
        bool | None, Query(alias="all", description="Must be true when there is no filter.")
    ] = None,
) -> DeletedCount:
    """Delete all messages that match, for good."""
    if query.is_empty and not everything:
        raise Invalid("Deleting every message needs all=true.", code="all_required", field="all")
    deleted = await messages.delete_matching(
        parts.database, parts.bodies, principal.organisation_id, query, now=now
    )
    return DeletedCount(deleted=deleted)


def _message_id(text: str) -> MessageId:
    return MessageId(read_id(text))


def _of(
    parts: Parts, principal: Principal, message_id: str
) -> tuple[Database, Bodies, OrganisationId, MessageId]:
    """Say where to look and for what, as every question about one message begins."""
    return parts.database, parts.bodies, principal.organisation_id, _message_id(message_id)
