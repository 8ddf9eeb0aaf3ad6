"""The filters of messages, as they stand in a URL; list, count, wait and bulk delete share them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends, Query, Request

from mailtape.api.deps import parts_of
from mailtape.domain.errors import Invalid
from mailtape.domain.query import MessageQuery, check_words

_SEQUENCE = re.compile(r"[0-9]{1,18}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = 253_402_300_799_000_000
"""The last second of the year 9999, in microseconds."""


async def message_query(
    request: Request,
    address: Annotated[
        str | None,
        Query(
            max_length=320,
            description="Envelope recipient, in any case; without a plus-tag it covers every tag.",
            examples=["qa@mail.example.com"],
        ),
    ] = None,
    q: Annotated[
        str | None,
        Query(
            description="All of these words, in any case; phrases in double quotes.",
            examples=['order "thank you"'],
        ),
    ] = None,
    since: Annotated[
        str | None,
        Query(max_length=40, description="A sequence or an RFC 3339 time: only what is after it."),
    ] = None,
    before: Annotated[
        str | None,
        Query(max_length=40, description="A sequence or an RFC 3339 time: only what is before it."),
    ] = None,
    unread: Annotated[bool | None, Query(description="Only unread, or only read messages.")] = None,
) -> MessageQuery:
    """Read the filters; an empty one is none.

    Raises:
        Invalid: `q` asks for too much, or a bound is neither a sequence nor a time.
    """
    if q:
        check_words(q, (await parts_of(request)).settings.words)
    since_sequence, since_us = _bound("since", since)
    before_sequence, before_us = _bound("before", before)
    return MessageQuery(
        # A plus that nobody escaped arrives as a space (WHATWG URL, section 5.1), and no address
        # that we could have taken holds a space.
        address=address.replace(" ", "+") if address else None,
        words=q if q and not q.isspace() else None,
        since_sequence=since_sequence,
        before_sequence=before_sequence,
        since_us=since_us,
        before_us=before_us,
        unread=unread,
    )


MessageFilters = Annotated[MessageQuery, Depends(message_query)]


def _bound(name: str, text: str | None) -> tuple[int | None, int | None]:
    """Read a bound as a sequence or as microseconds since 1970."""
    if not text:
        return None, None
    if _SEQUENCE.fullmatch(text):
        return int(text), None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped plus, as above
        microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError) as error:  # TypeError: it does not say which zone it is in
        raise Invalid(
            f"{name} is a sequence or an RFC 3339 time with its zone.", field=name
        ) from error
    return None, min(max(microseconds, 0), _LAST_US)
