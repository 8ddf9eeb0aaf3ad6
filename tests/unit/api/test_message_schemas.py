"""What is written without the models is what the models say."""

from datetime import UTC, datetime

import pytest

from mailtape.api.paging import Page
from mailtape.api.schemas.messages import MessageItem, page_json
from mailtape.domain.ids import IngestId, MessageId
from mailtape.domain.message import Listed, Mailbox

HOSTILE = "".join(map(chr, range(0xA1))) + '"\\/</script>\u2028\ud7ff\ufffe\U0001f4e7'


def _listed(text: str, received_at: datetime) -> Listed:
    return Listed(
        id=MessageId(bytes(range(16))),
        transaction=IngestId(bytes(range(240, 256))),
        sequence=2**62,
        address=f"address {text}",
        sender=Mailbox(f"name {text}", text),
        to=(Mailbox("", text), Mailbox(text, "")),
        subject=f"subject {text}",
        snippet=f"snippet {text}",
        received_at=received_at,
        size=0,
        attachments=3,
        unparsed=True,
        read=False,
        tags=(text, "b"),
    )


@pytest.mark.parametrize("microsecond", [0, 1, 120_000, 999_999])
@pytest.mark.parametrize("next_cursor", [None, "AZqlTmoQfB6fOy1vDBt6VQ"])
def test_a_page_is_written_as_its_model_would_be(microsecond: int, next_cursor: str | None) -> None:
    received_at = datetime(2026, 11, 21, 10, 15, 0, microsecond, tzinfo=UTC)
    messages = [_listed(HOSTILE, received_at), _listed("", received_at)]

    page = Page(items=[MessageItem.of(message) for message in messages], next_cursor=next_cursor)

    assert page_json(messages, next_cursor) == page.model_dump_json().encode()


def test_an_empty_page_is_written_as_its_model_would_be() -> None:
    assert page_json([], None) == b'{"items":[],"next_cursor":null}'
