"""The stages of a mail at somebody else's SMTP server, and what we say to each.

RCPT decides and holds room under the transaction's name. DATA only tells which queue id the
transaction became, by which LMTP finds what was held. END-OF-MESSAGE knows the true size. To every
other stage, and to one that names no recipient (several were accepted), there is nothing to say;
that, too, is answered, because a server waits for it.

A question that does not name its transaction is decided like any other, but holds nothing: nobody
could tell later what became of it, and the same question again would hold twice.
"""

import secrets
from functools import lru_cache

import structlog

from mailtape.deadline import within_seconds
from mailtape.domain import address
from mailtape.domain.errors import Invalid
from mailtape.domain.policy import PolicyRequest
from mailtape.domain.quota import Decision, Reason, Verdict
from mailtape.metrics import POLICY_ACCEPTED_BLIND
from mailtape.services.quota import Quota

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 0.5
"""Postfix waits a hundred by default, for each recipient, while its client waits for Postfix."""
_NAME = 255
"""Characters of an instance or a queue id, as in `POST /policy/check`; Postfix's have some twenty.
They are kept for as long as the mail is on its way, so a longer one is taken for none."""
_RECIPIENT = 512
"""Characters. An address has 254 octets; what is much longer is none, and is not remembered."""
_RCPT = "RCPT"
_END_OF_MESSAGE = "END-OF-MESSAGE"
_NOT_UTF8 = "\N{REPLACEMENT CHARACTER}"
_NOTHING_TO_SAY = Decision(Verdict.ACCEPT)
_NO_SUCH_ADDRESS = Decision(Verdict.NEVER, Reason.ADDRESS_UNKNOWN)
_CANNOT_DECIDE = Decision(Verdict.LATER, Reason.CANNOT_DECIDE)


async def check(
    quota: Quota,
    request: PolicyRequest,
    *,
    domain: str,
    within: float = ANSWER_SECONDS,
    accept_blind: bool = False,
) -> Decision:
    """Answer a question, whatever happens, within so many seconds.

    `domain` is ours: the one of a recipient that is just `postmaster`. What cannot be decided, or
    not in time, is put off, and the log says why. With `accept_blind` there is no objection to it
    instead, and nothing is held: LMTP decides when it can. A refusal that is known stays one.
    """
    decision = await _check(quota, request, domain, within)
    if accept_blind and decision.reason is Reason.CANNOT_DECIDE:
        log.warning("policy.accepted_blind", stage=request.protocol_state[:32])
        POLICY_ACCEPTED_BLIND.inc()
        return _NOTHING_TO_SAY
    return decision


async def _check(quota: Quota, request: PolicyRequest, domain: str, within: float) -> Decision:
    try:
        return await within_seconds(within, _at_stage(quota, request, domain))
    except TimeoutError:
        log.warning("policy.too_slow", stage=request.protocol_state[:32], seconds=within)
    except Exception:
        log.exception("policy.failed", stage=request.protocol_state[:32])
    return _CANNOT_DECIDE


async def _at_stage(quota: Quota, request: PolicyRequest, domain: str) -> Decision:
    if max(len(request.instance), len(request.queue_id)) > _NAME:
        request = request._replace(instance="", queue_id="")
    if request.instance and request.queue_id:
        await quota.queued(request.instance, request.queue_id)  # DATA's news, wherever it is known
    if request.protocol_state not in {_RCPT, _END_OF_MESSAGE} or not request.recipient:
        return _NOTHING_TO_SAY
    recipient = _mailbox(request.recipient, domain)
    if recipient is None:
        return _NO_SUCH_ADDRESS
    return await _judge(quota, request, recipient)


async def _judge(quota: Quota, request: PolicyRequest, recipient: str) -> Decision:
    """Decide on one recipient; what is refused, or has no name, is held no longer.

    What cannot be told at the end of a mail is held until it runs out.
    """
    transaction = request.instance or secrets.token_hex(8)
    judged = await quota.recipient(
        recipient,
        transaction=transaction,
        octets=request.size,
        received=request.protocol_state == _END_OF_MESSAGE,
    )
    if not (judged.decision.accepted and request.instance):
        await quota.release(transaction, [judged])
    return judged.decision


def _mailbox(recipient: str, domain: str) -> str | None:
    """Write a recipient as LMTP writes it, which looks for what is held by it.

    Postfix takes the quotes off a local part: `"a b"@example.org` comes as `a b@example.org`.
    None when it is no address.
    """
    return _checked(recipient, domain) if len(recipient) <= _RECIPIENT else None


@lru_cache(maxsize=10_000)  # a sender asks for the same recipients again and again
def _checked(recipient: str, domain: str) -> str | None:
    if _NOT_UTF8 in recipient:
        return None
    try:
        path = address.forward_path(recipient, postmaster_at=domain, smtputf8=True)
    except Invalid:
        local, _, rest = recipient.rpartition("@")
        escaped = local.replace("\\", "\\\\").replace('"', '\\"')
        try:
            path = address.mailbox(f'"{escaped}"@{rest}', smtputf8=True)
        except Invalid:
            return None
    return address.normalise(path)
