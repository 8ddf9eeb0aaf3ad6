"""Which messages name a body, asked for many bodies at a time.

An ingest id and the ids of its messages begin with the same millisecond, so the index on the id
finds them; what else an organisation got in that millisecond comes along, and who asks sorts it
out.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.rows.messages import Message

K = TypeVar("K", bound=tuple[IngestId, OrganisationId])

_AT_ONCE = 64


def chunks(keys: Sequence[K]) -> Iterator[Sequence[K]]:
    """Cut keys into as many as one statement asks for."""
    return (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))


def may_name(bodies: int) -> sa.ColumnElement[bool]:
    """Ask for the messages of so many milliseconds, each of one owner."""
    return sa.or_(
        *(
            sa.and_(
                Message.organisation_id == bindparam(f"organisation{number}"),
                Message.id.between(bindparam(f"low{number}"), bindparam(f"high{number}")),
            )
            for number in range(bodies)
        )
    )


def asked(keys: Sequence[K]) -> dict[str, bytes]:
    """Give what `may_name` asks for, of as many keys."""
    values: dict[str, bytes] = {}
    for number, (ingest_id, organisation_id) in enumerate(keys):
        values[f"organisation{number}"] = organisation_id
        values[f"low{number}"] = ingest_id[:6] + bytes(10)
        values[f"high{number}"] = ingest_id[:6] + b"\xff" * 10
    return values
