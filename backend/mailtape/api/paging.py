"""Pages of a list: `limit`, `cursor`, and the answer `{"items": […], "next_cursor": …}`.

Every list of ours is in order of an id, so a cursor is the id of the last item shown, in
base64url: a page begins after it, whatever was added or removed meanwhile. A cursor grants nothing:
the query is scoped by organisation all the same.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from mailtape.domain.errors import Invalid

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200
_CURSOR = re.compile(r"[A-Za-z0-9_-]{22}")
"""Sixteen octets in base64url without padding (RFC 4648, section 5)."""

T = TypeVar("T")
Row = TypeVar("Row")


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = Field(
        description="Give it as `cursor` to read on; null on the last page."
    )


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page is asked for."""

    limit: int
    after: bytes | None
    """The id that the page begins after; None for the first page."""

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than is shown tells whether there is a next page."""
        return self.limit + 1


def encode_cursor(identifier: bytes) -> str:
    """Write an id as a cursor."""
    return base64.urlsafe_b64encode(identifier).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> bytes:
    """Read a cursor.

    Raises:
        Invalid: `invalid_cursor`; it is none of ours.
    """
    if not _CURSOR.fullmatch(cursor):
        raise Invalid("This is no cursor.", code="invalid_cursor", field="cursor")
    return base64.urlsafe_b64decode(cursor + "==")


def page_of(
    rows: Sequence[Row], query: PageQuery, *, key: Callable[[Row], bytes], show: Callable[[Row], T]
) -> Page[T]:
    """Make a page of up to `query.fetch` rows; `key` gives a row's id, `show` its schema."""
    shown = rows[: query.limit]
    return Page(
        items=[show(row) for row in shown],
        next_cursor=encode_cursor(key(shown[-1])) if len(rows) > query.limit else None,
    )


async def page_query(
    limit: Annotated[
        int, Query(ge=1, le=LARGEST_LIMIT, description="How many items at most.")
    ] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the page before.")
    ] = None,
) -> PageQuery:
    """Read the page asked for."""
    return PageQuery(limit, None if cursor is None else decode_cursor(cursor))


PageParams = Annotated[PageQuery, Depends(page_query)]
