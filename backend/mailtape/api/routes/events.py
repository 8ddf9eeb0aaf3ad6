"""`GET /events`: every stored message as it becomes visible, as server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from collections.abc import AsyncIterator
from typing import Annotated

import structlog
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from mailtape.api.auth import MessagesRead, check_still_allowed
from mailtape.api.deps import GivenParts
from mailtape.api.errors import responses
from mailtape.api.schemas.events import EventData
from mailtape.domain.errors import Invalid, Refused, TooMany, Unavailable
from mailtape.domain.event import StoredEvent
from mailtape.metrics import HTTP_STREAMS
from mailtape.services import events

router = APIRouter(tags=["Events"])
_log = structlog.get_logger(__name__)

QUIET_SECONDS = 15.0
"""Between heartbeats: proxies cut a connection that is silent for 30 to 60 seconds."""
_RECONNECT_MS = 2000
_NUMBER = re.compile(r"[0-9]{1,18}")


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        **responses(TooMany, Unavailable),
        200: {
            "description": "`id` is the sequence, `event` the kind, `data` JSON.",
            "content": {
                "text/event-stream": {
                    "example": "id: 42\nevent: message.stored\ndata: {…}\n\n",
                    "schema": {"type": "string"},
                }
            },
        },
    },
)
async def follow_events(
    request: Request,
    parts: GivenParts,
    principal: MessagesRead,
    last_event_id: Annotated[
        str | None, Header(max_length=40, description="Go on after this sequence, without a hole.")
    ] = None,
    last_event_id_of_query: Annotated[
        str | None, Query(alias="last_event_id", max_length=40, description="The same.")
    ] = None,
    since: Annotated[str | None, Query(max_length=40, description="The same.")] = None,
) -> StreamingResponse:
    """Follow the organisation's messages; without a place to resume from, from now on.

    Numbers have no holes. A message that was deleted since is an event whose `message` is null.
    """
    last = await events.last_sequence(parts.database, principal.organisation_id)
    after = _resume(last_event_id or last_event_id_of_query or since, last)
    pages = events.follow(
        parts.database,
        parts.wakeups,
        principal.organisation_id,
        after=after,
        quiet_seconds=QUIET_SECONDS,
        check=lambda: check_still_allowed(request, parts, principal),
    )
    await anext(pages)  # the watch is open, or refused, before the client hears "200"
    return StreamingResponse(
        _written(pages),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},  # nginx would keep events back to fill its buffer
    )


def _resume(place: str | None, last: int) -> int:
    """Read the place to resume from; one that was never reached is now."""
    if not place:
        return last
    if not _NUMBER.fullmatch(place):
        raise Invalid("An event's id is its sequence.", field="Last-Event-ID")
    return min(int(place), last)


async def _written(pages: AsyncIterator[list[StoredEvent]]) -> AsyncIterator[str]:
    with HTTP_STREAMS.track_inprogress():
        yield f"retry: {_RECONNECT_MS}\n\n"
        try:
            async for page in pages:
                yield "".join(map(_as_text, page)) or ": nothing new\n\n"
        except Refused:
            return  # the answer was 200 long ago; whoever reconnects hears why
        except Unavailable:
            _log.warning("events_interrupted")
            return  # the client reconnects and resumes where it was


def _as_text(event: StoredEvent) -> str:
    # JSON holds no line end, so the data is one line whatever a subject says.
    data = EventData.of(event).model_dump_json()
    return f"id: {event.sequence}\nevent: {event.kind}\ndata: {data}\n\n"
