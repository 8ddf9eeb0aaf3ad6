"""The table of replies: complete, well-formed, and the same for the same error."""

import re

import pytest

from mailtape.domain import errors, quota
from mailtape.domain.errors import MailtapeError
from mailtape.domain.quota import Decision, Reason, Verdict
from mailtape_ingest import replies
from mailtape_ingest.replies import Reply

ALL_REPLIES = {name: reply for name, reply in vars(replies).items() if isinstance(reply, Reply)}
ALL_ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, MailtapeError)
]


def example(error: type[MailtapeError], code: str | None = None) -> MailtapeError:
    if issubclass(error, errors.TooMany):
        return error("a secret of ours", retry_after=3, code=code)
    return error("a secret of ours", code=code)


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: error.__name__)
def test_has_a_reply_for_every_error_there_is(error: type[MailtapeError]) -> None:
    reply = replies.for_error(example(error))
    temporary = error.temporary or error is MailtapeError
    assert reply.code // 100 == (4 if temporary or error is MailtapeError else 5)
    assert b"secret" not in reply.wire


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.Invalid("x", code="address_not_ascii"), "553 5.6.7"),
        (errors.Unavailable("x"), "451 4.3.0"),
        (errors.StoreFull("x"), "452 4.3.1"),
        (errors.TooMany("x", retry_after=1), "451 4.3.0"),
        (errors.Unauthenticated("x"), "535 5.7.8"),
    ],
)
def test_says_what_outsiders_rely_on(error: MailtapeError, expected: str) -> None:
    assert replies.for_error(error).wire.decode().startswith(expected + " ")


@pytest.mark.parametrize("reason", Reason)
def test_words_a_refused_recipient_as_every_door_does(reason: Reason) -> None:
    refusal = quota.refusal(Decision(Verdict.LATER, reason))
    assert refusal is not None
    reply = replies.for_decision(Decision(Verdict.LATER, reason))
    assert reply == Reply(refusal.code, refusal.enhanced, refusal.text)


def test_has_no_reply_to_a_recipient_that_is_taken() -> None:
    assert replies.for_decision(quota.UNLIMITED) is None


@pytest.mark.parametrize("name", ALL_REPLIES)
def test_is_one_short_line_of_ascii_whose_two_codes_agree(name: str) -> None:
    reply = ALL_REPLIES[name]
    assert re.fullmatch(rb"[2-5][0-5][0-9] [\x20-\x7e]*\r\n", reply.wire)
    assert len(reply.wire) <= 512  # RFC 5321, section 4.5.3.1.5
    if reply.code // 100 == 3:
        assert reply.enhanced == ""
    else:
        assert re.fullmatch(rf"{reply.code // 100}\.[0-7]\.[0-9]+", reply.enhanced)


def test_marks_every_line_but_the_last_of_a_long_reply() -> None:
    assert Reply(250, "2.0.0", "a\nb").wire == b"250-2.0.0 a\r\n250 2.0.0 b\r\n"
