"""Kinds of values that requests of several features share."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, PlainSerializer, StringConstraints


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("Control characters and line breaks have no place here.")
    return text


Label = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_one_line),
]
"""A name that people read: one line of printable text."""

Email = Annotated[str, StringConstraints(max_length=320)]


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


Moment = Annotated[AwareDatetime, PlainSerializer(_rfc3339, return_type=str)]
"""A time: RFC 3339, in UTC on the way out, with any offset on the way in."""
