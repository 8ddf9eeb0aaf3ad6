"""The rule, each boundary from both sides."""

from datetime import UTC, datetime, timedelta

import pytest

from mailtape.domain.quota import (
    Decision,
    Reason,
    Request,
    Usage,
    Verdict,
    decide,
    refusal,
)
from mailtape.domain.tier import FREE, Limits

NOW = datetime(2026, 11, 30, 23, 59, 0, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1_000_000)


@pytest.mark.parametrize(
    ("limits", "usage", "octets", "reason"),
    [
        (Limits(), Usage(emails=10**9, storage_bytes=10**15), 10**9, None),
        (Limits(emails_per_month=10), Usage(emails=9), 0, None),
        (Limits(emails_per_month=10), Usage(emails=10), 0, Reason.MONTHLY_MAILS),
        (Limits(emails_per_month=10), Usage(emails=4, reserved_emails=5), 0, None),
        (Limits(emails_per_month=10), Usage(emails=4, reserved_emails=6), 0, Reason.MONTHLY_MAILS),
        (Limits(emails_per_month=0), Usage(), 0, Reason.MONTHLY_MAILS),
        (Limits(storage_bytes=100), Usage(storage_bytes=60), 40, None),
        (Limits(storage_bytes=100), Usage(storage_bytes=60), 41, Reason.STORAGE),
        (Limits(storage_bytes=100), Usage(storage_bytes=40, reserved_bytes=20), 40, None),
        (Limits(storage_bytes=100), Usage(storage_bytes=40, reserved_bytes=20), 41, Reason.STORAGE),
        (Limits(storage_bytes=100), Usage(storage_bytes=99), 0, None),
        (Limits(storage_bytes=100), Usage(storage_bytes=100), 0, Reason.STORAGE),
        (Limits(message_bytes=100), Usage(), 100, None),
        (Limits(message_bytes=100), Usage(), 101, Reason.MAILBOX_SIZE),
        (Limits(messages_per_minute=0), Usage(), 0, Reason.RATE),
    ],
)
def test_takes_what_fits_and_refuses_the_next(
    limits: Limits, usage: Usage, octets: int, reason: Reason | None
) -> None:
    decision = decide(limits, usage, Request(octets), NOW)

    assert decision.reason == reason
    assert decision.accepted == (reason is None)


def _taken_at_once(per_minute: int, arrival_us: int, now: datetime) -> tuple[int, int]:
    usage = Usage(arrival_us=arrival_us)
    taken = 0
    while (
        decision := decide(Limits(messages_per_minute=per_minute), usage, Request(0), now)
    ).accepted:
        usage = usage._replace(arrival_us=decision.arrival_us)
        taken += 1
    return taken, usage.arrival_us


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 1000])
def test_a_rate_of_n_admits_a_burst_of_n(per_minute: int) -> None:
    taken, _ = _taken_at_once(per_minute, 0, NOW)

    assert taken == per_minute


def test_a_used_up_rate_gives_one_mail_back_at_each_interval() -> None:
    _, arrival_us = _taken_at_once(60, 0, NOW)

    early, _ = _taken_at_once(60, arrival_us, NOW + timedelta(milliseconds=999))
    on_time, _ = _taken_at_once(60, arrival_us, NOW + timedelta(seconds=1))
    after_a_minute, _ = _taken_at_once(60, arrival_us, NOW + timedelta(minutes=1))

    assert (early, on_time, after_a_minute) == (0, 1, 60)


def test_says_how_long_to_wait_for_the_rate() -> None:
    _, arrival_us = _taken_at_once(60, 0, NOW)

    decision = decide(Limits(messages_per_minute=60), Usage(arrival_us=arrival_us), Request(0), NOW)

    assert (decision.verdict, decision.retry_after) == (Verdict.LATER, 1)


def test_says_how_long_to_wait_for_the_next_month() -> None:
    decision = decide(Limits(emails_per_month=1), Usage(emails=1), Request(0), NOW)

    assert decision.retry_after == 60


def test_a_refusal_uses_up_nothing_of_the_rate() -> None:
    limits = Limits(messages_per_minute=5, emails_per_month=0)

    decision = decide(limits, Usage(arrival_us=NOW_US), Request(0), NOW)

    assert (decision.reason, decision.arrival_us) == (Reason.MONTHLY_MAILS, NOW_US)


def test_tells_what_remains_of_the_month_after_this_mail() -> None:
    limits = Limits(emails_per_month=10)

    assert decide(limits, Usage(emails=3, reserved_emails=2), Request(0), NOW).remaining == 4
    assert decide(Limits(), Usage(emails=3), Request(0), NOW).remaining is None


@pytest.mark.parametrize(
    ("limits", "usage", "octets", "reason"),
    [
        (Limits(message_bytes=100), Usage(), 100, None),
        (Limits(message_bytes=100), Usage(), 101, Reason.MESSAGE_SIZE),
        (Limits(storage_bytes=100), Usage(storage_bytes=60), 40, None),
        (Limits(storage_bytes=100), Usage(storage_bytes=60), 41, Reason.STORAGE),
        (Limits(emails_per_month=1), Usage(emails=5), 40, None),
        (Limits(messages_per_minute=0), Usage(), 40, None),
    ],
)
def test_a_mail_that_is_here_is_judged_by_what_only_its_size_shows(
    limits: Limits, usage: Usage, octets: int, reason: Reason | None
) -> None:
    assert decide(limits, usage, Request(octets, received=True), NOW).reason == reason


def test_full_storage_is_for_good_where_the_tier_says_so() -> None:
    soft = decide(Limits(storage_bytes=1), Usage(storage_bytes=1), Request(1), NOW)
    hard = decide(
        Limits(storage_bytes=1, storage_is_hard=True), Usage(storage_bytes=1), Request(1), NOW
    )

    assert [(r.code, r.enhanced) for r in (refusal(soft), refusal(hard)) if r] == [
        (452, "4.2.2"),
        (550, "5.2.2"),
    ]


def test_never_is_told_before_later() -> None:
    """A sender who waits for the rate must not learn only then that the mail is too large."""
    limits = Limits(message_bytes=1, messages_per_minute=0)

    assert decide(limits, Usage(), Request(2), NOW).reason == Reason.MAILBOX_SIZE


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_reply_whose_codes_agree(reason: Reason) -> None:
    reply = refusal(Decision(Verdict.LATER, reason))

    assert reply is not None
    assert str(reply.code)[0] == reply.enhanced[0]
    assert reply.text.isascii()


def test_the_free_tier_takes_its_first_mail() -> None:
    assert decide(FREE.limits, Usage(), Request(5_000), NOW).accepted
