"""What the wire asks of the platform: may you come in, is this recipient taken, keep this mail.

Every question has its answer in a service; what is written here is only what the wire alone knows:
whether a mail has one reply or one for each recipient, and when its sender still holds it. Nothing
in here ends the wait for the disk: what is written is answered as it was.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from mailtape.deadline import within_seconds
from mailtape.domain.errors import Unauthenticated, Unavailable
from mailtape.domain.quota import Decision
from mailtape.ports.queue import Queue
from mailtape.services import intake
from mailtape.services.quota import Judged, Silent
from mailtape_ingest import replies
from mailtape_ingest.events import Abandoned, Login, Mail, Recipient
from mailtape_ingest.replies import Reply

_JUDGING_SECONDS = 60.0
"""For all recipients of a mail that is here. With ten to keep it and ten to count it that is well
under the two minutes after which a relay sends it again beside the first (Postfix as we configure
it: lmtp_data_done_timeout)."""


class Handler(Protocol):
    """Answers the events of a session."""

    async def authenticate(self, login: Login) -> None:
        """Return when the credentials are good; else raise a `MailtapeError`."""

    async def recipient(self, recipient: Recipient[Judged], silent: Silent | None) -> Judged:
        """Say whether this recipient is taken, and where its mail goes."""

    async def message(self, mail: Mail[Judged]) -> Sequence[Reply]:
        """Take a mail over; one reply for each of its destinations, 250 only where it is safe.

        Raises:
            MailtapeError: nothing was kept for anybody.
        """

    async def abandoned(self, abandoned: Abandoned[Judged]) -> None:
        """Learn that the mail of accepted recipients will not come."""


class Judge(Protocol):
    """Decides on recipients, as `services.quota.Quota` does."""

    async def recipient(
        self,
        address: str,
        *,
        transaction: str,
        octets: int,
        taken: Collection[Judged],
        silent: Silent | None,
    ) -> Judged:
        """Judge a recipient beside those that take the mail, and hold room for it."""

    async def received(
        self, transaction: str, judged: Sequence[Judged], octets: int, *, relayed: bool = False
    ) -> list[Decision]:
        """Judge each again by the true size."""

    async def commit(self, transaction: str, judged: Sequence[Judged], octets: int) -> None:
        """Count a mail that is safe; raises nothing, for its sender must hear that it is."""

    async def release(self, transaction: str, judged: Sequence[Judged]) -> None:
        """Give back what was held."""


class MailHandler:
    """The handler of SMTP and LMTP, over the services.

    `authenticate` tells whether a user name and a token belong together; None accepts whatever is
    shown, which is right for capture on loopback, where applications carry dummy credentials.
    """

    def __init__(
        self,
        queue: Queue,
        quota: Judge,
        authenticate: Callable[[str, str], Awaitable[bool]] | None,
    ) -> None:
        self._queue = queue
        self._quota = quota
        self._authenticate = authenticate

    async def authenticate(self, login: Login) -> None:
        """Check credentials.

        Raises:
            Unauthenticated: they are wrong.
            Unavailable: they cannot be checked at the moment.
        """
        if self._authenticate is not None and not await self._authenticate(
            login.user, login.password
        ):
            raise Unauthenticated("These credentials are not valid.")

    async def recipient(self, recipient: Recipient[Judged], silent: Silent | None) -> Judged:
        """Judge a recipient; what is held for it is held under the name of its transaction."""
        return await self._quota.recipient(
            recipient.address,
            transaction=recipient.transaction,
            octets=recipient.declared_octets,
            taken=recipient.destinations,
            silent=silent,
        )

    async def message(self, mail: Mail[Judged]) -> Sequence[Reply]:
        """Hand a mail to intake for those recipients that take it; on return it is durable.

        Where one reply speaks for all, a mail that one recipient cannot take is kept for none: the
        alternative is a 250 of which one recipient's part is a lie.

        Raises:
            Unavailable: the queue is full, or the mail could not be made certain, or it took too
                long to tell who takes it; what is held for it then runs out.
        """
        try:
            outcomes = await within_seconds(_JUDGING_SECONDS, self._judge(mail))
        except TimeoutError:
            raise Unavailable("It took too long to tell who takes this mail.") from None
        kept, _ = _parted(mail.destinations, outcomes)
        if kept:
            await self._keep(mail, kept)
        return outcomes

    async def abandoned(self, abandoned: Abandoned[Judged]) -> None:
        """Give back what was held for a mail that will not come.

        Unless a relay has it in its own queue: that mail was promised room, and comes again under
        the same name.
        """
        if not abandoned.queue_id:
            await self._quota.release(abandoned.transaction, abandoned.destinations)

    async def _judge(self, mail: Mail[Judged]) -> list[Reply]:
        """Decide on each recipient, and give back what was held for those who do not get it."""
        decisions = await self._quota.received(
            mail.transaction, mail.destinations, len(mail.raw), relayed=bool(mail.queue_id)
        )
        outcomes = [replies.for_decision(each) or replies.MESSAGE_KEPT for each in decisions]
        worst = max(outcomes, key=lambda reply: reply.code)
        if mail.one_reply and not worst.positive:
            outcomes = [worst] * len(outcomes)
        _, refused = _parted(mail.destinations, outcomes)
        if refused:
            await self._quota.release(mail.transaction, refused)
        return outcomes

    async def _keep(self, mail: Mail[Judged], kept: Sequence[Judged]) -> None:
        try:
            await intake.accept(
                self._queue,
                mail.raw,
                now_us=time.time_ns() // 1000,
                protocol=mail.protocol,
                mail_from=mail.mail_from,
                deliveries=[each.destination.delivery for each in kept if each.destination],
                client_address=mail.client_address,
                helo=mail.helo,
                tls=mail.tls,
                queue_id=mail.queue_id,
                transaction=mail.transaction,
            )
        except Exception:
            await self.abandoned(Abandoned(mail.transaction, tuple(kept), mail.queue_id))
            raise
        await self._quota.commit(mail.transaction, kept, len(mail.raw))


def _parted(
    destinations: Sequence[Judged], outcomes: Sequence[Reply]
) -> tuple[list[Judged], list[Judged]]:
    """Part those who get the mail from those who do not."""
    paired = list(zip(destinations, outcomes, strict=True))
    kept = [judged for judged, outcome in paired if outcome.positive]
    refused = [judged for judged, outcome in paired if not outcome.positive]
    return kept, refused
