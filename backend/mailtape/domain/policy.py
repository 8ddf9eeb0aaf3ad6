"""What a mail server asks before it takes a mail, and how it is answered.

Postfix asks the policy daemon (its SMTPD_POLICY_README), other programs `POST /policy/check`; both
ask the same question and get the same answer.
"""

from typing import Final, NamedTuple

from mailtape.domain import quota
from mailtape.domain.quota import Decision

DUNNO: Final = "DUNNO"
"""Nothing against it. Never `OK`, with which Postfix would skip all checks that follow."""


class PolicyRequest(NamedTuple):
    """What is known of a mail at one stage of its transaction; empty or 0 where nothing is."""

    protocol_state: str = ""
    """`RCPT`, `DATA`, `END-OF-MESSAGE`, or another stage, on which we have no opinion."""
    recipient: str = ""
    """At DATA and later empty, unless there is exactly one."""
    sender: str = ""
    client_address: str = ""
    size: int = 0
    """Octets: as announced, 0 when they were not; true at END-OF-MESSAGE."""
    instance: str = ""
    """Names the transaction: the same in all requests of one mail, another in the next mail's."""
    queue_id: str = ""
    """Unknown before the first recipient is accepted."""
    recipient_count: int = 0
    """Accepted so far; 0 before DATA."""


def action(decision: Decision) -> str:
    """Word a decision as the right side of Postfix's access table; ASCII, without a line end."""
    refusal = quota.refusal(decision)
    return DUNNO if refusal is None else str(refusal)
