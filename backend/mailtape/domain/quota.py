"""The one rule by which mail is let in or refused, whichever door it comes to.

The policy daemon, `POST /policy/check`, SMTP, LMTP and `POST /ingest` all ask `decide`, so they
give the same verdict. It knows no clock and no store: what was used and what is reserved come in as
facts, and a refusal is a result, never an error.

The order of the questions is the order in which a sender is told: what will never work (suspended,
too large), then what works again soon (rate), then what works again later (month, storage).

Facts and decisions are tuples: of each one is made for every recipient of every mail, and a frozen
dataclass takes more than twice as long to make.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from mailtape.domain.tier import Limits

_MINUTE_US = 60_000_000


class Reason(StrEnum):
    """Why a recipient is refused; stable names, for programs."""

    ADDRESS_UNKNOWN = "address_unknown"
    ORGANISATION_SUSPENDED = "organisation_suspended"
    RATE = "rate_limited"
    MONTHLY_MAILS = "monthly_mails"
    STORAGE = "storage"
    MAILBOX_SIZE = "mailbox_message_too_large"
    """Announced larger than this recipient's tier takes."""
    MESSAGE_SIZE = "message_too_large"
    """Turned out larger, after DATA."""
    ORGANISATIONS = "too_many_organisations"
    """The mail is on its way to as many others as one mail may go to."""
    CANNOT_DECIDE = "cannot_decide"


class Verdict(StrEnum):
    """What the sender is told to do."""

    ACCEPT = "accept"
    LATER = "later"
    """4xx: the same mail may be taken later."""
    NEVER = "never"
    """5xx: the same mail will not be taken."""


class Request(NamedTuple):
    """One recipient of one mail."""

    octets: int
    """Announced or true size; 0 when nobody knows yet."""
    received: bool = False
    """Whether the mail is here whole: then only its true size and the storage are asked about."""


class Usage(NamedTuple):
    """What an organisation has used and what is promised to mail on its way."""

    emails: int = 0
    """This month's, accepted ones that are not stored yet among them."""
    storage_bytes: int = 0
    reserved_emails: int = 0
    reserved_bytes: int = 0
    arrival_us: int = 0
    """GCRA's theoretical arrival time of the next mail, microseconds since 1970; 0 for none."""


class Decision(NamedTuple):
    """What to answer, and the figures it came from."""

    verdict: Verdict
    reason: Reason | None = None
    remaining: int | None = None
    """Mails left this month after this one; None for no limit, or when it was not asked."""
    retry_after: int | None = None
    """Seconds until the same request may be taken; None when waiting does not help."""
    arrival_us: int = 0
    """The theoretical arrival time to keep when this is accepted."""

    @property
    def accepted(self) -> bool:
        """Whether the recipient is taken."""
        return self.verdict is Verdict.ACCEPT


UNLIMITED = Decision(Verdict.ACCEPT)


def decide(limits: Limits, usage: Usage, request: Request, now: datetime) -> Decision:
    """Judge one more mail for an organisation that is in good standing."""
    if limits.message_bytes is not None and request.octets > limits.message_bytes:
        reason = Reason.MESSAGE_SIZE if request.received else Reason.MAILBOX_SIZE
        return Decision(Verdict.NEVER, reason)
    if request.received:
        return _storage(limits, usage, request) or UNLIMITED
    now_us = int(now.timestamp() * 1_000_000)
    wait_us, arrival_us = _rate(limits.messages_per_minute, usage.arrival_us, now_us)
    if wait_us > 0:
        return Decision(Verdict.LATER, Reason.RATE, retry_after=_seconds(wait_us))
    remaining = None
    if limits.emails_per_month is not None:
        remaining = limits.emails_per_month - usage.emails - usage.reserved_emails - 1
        if remaining < 0:
            return Decision(
                Verdict.LATER, Reason.MONTHLY_MAILS, 0, _until_next_month(now), usage.arrival_us
            )
    refused = _storage(limits, usage, request)
    return refused or Decision(Verdict.ACCEPT, None, remaining, None, arrival_us)


def _storage(limits: Limits, usage: Usage, request: Request) -> Decision | None:
    """Refuse what does not fit; with an unknown size, what cannot fit."""
    if limits.storage_bytes is None:
        return None
    taken = usage.storage_bytes + usage.reserved_bytes
    if taken + max(request.octets, 1) <= limits.storage_bytes:
        return None
    verdict = Verdict.NEVER if limits.storage_is_hard else Verdict.LATER
    return Decision(verdict, Reason.STORAGE)


def _rate(per_minute: int | None, arrival_us: int, now_us: int) -> tuple[int, int]:
    """Ask GCRA: N mails a minute, and a burst of N when none came for a minute.

    Gives the time to wait, 0 for none, and the theoretical arrival time after this mail.
    """
    if per_minute is None:
        return 0, 0
    if per_minute == 0:
        return _MINUTE_US, arrival_us
    interval_us = _MINUTE_US // per_minute
    arrival_us = max(arrival_us, now_us)
    early_us = arrival_us + interval_us - now_us - interval_us * per_minute
    return max(early_us, 0), arrival_us + interval_us


def _seconds(microseconds: int) -> int:
    return -(-microseconds // 1_000_000)


def _until_next_month(now: datetime) -> int:
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return max(1, int((following - now).total_seconds()))


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a sender reads, by SMTP, LMTP, policy daemon and HTTP alike (RFC 5321, RFC 3463)."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        """Write it as one line, without a line end."""
        return f"{self.code} {self.enhanced} {self.text}"


MALFORMED_ADDRESS = Refusal(501, "5.1.3", "Malformed address, write <name@domain>")
"""Not of the rule: what is no address has nobody to be asked about."""


_REFUSALS: Mapping[Reason, Refusal] = {
    Reason.ADDRESS_UNKNOWN: Refusal(550, "5.1.1", "no such address here"),
    Reason.ORGANISATION_SUSPENDED: Refusal(550, "5.7.1", "organisation is suspended"),
    Reason.RATE: Refusal(450, "4.2.1", "too many messages a minute for this address"),
    Reason.MONTHLY_MAILS: Refusal(452, "4.2.2", "monthly messages are used up"),
    Reason.STORAGE: Refusal(452, "4.2.2", "storage is full"),
    Reason.MAILBOX_SIZE: Refusal(550, "5.2.3", "message too large for this address"),
    Reason.MESSAGE_SIZE: Refusal(552, "5.3.4", "message too large"),
    Reason.ORGANISATIONS: Refusal(
        452, "4.5.3", "too many organisations, send it again to the rest"
    ),
    Reason.CANNOT_DECIDE: Refusal(451, "4.3.0", "cannot tell at the moment, try again later"),
}
_STORAGE_FOR_GOOD = Refusal(550, "5.2.2", "storage is full")


def refusal(decision: Decision) -> Refusal | None:
    """Word a refusal; None for a recipient that is taken."""
    if decision.reason is None:
        return None
    if decision.reason is Reason.STORAGE and decision.verdict is Verdict.NEVER:
        return _STORAGE_FOR_GOOD
    return _REFUSALS[decision.reason]
