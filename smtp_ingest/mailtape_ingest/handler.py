"""What the wire asks of the platform: may you come in, is that an address of ours, keep this mail.

Every question has its answer in a service; what is written here is only what the wire alone knows:
sizes, and that one mail has one reply. A "no" is an error of `domain.errors`, and `replies` turns
it into a reply. Nothing in here ends the wait for the disk: what is written is answered as it was.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from mailtape.domain import envelope
from mailtape.domain.envelope import Delivery
from mailtape.domain.errors import Invalid, Unauthenticated
from mailtape.ports.queue import Queue
from mailtape.services import intake
from mailtape.services.recipients import Destination
from mailtape_ingest.session import Login, Mail, Recipient


class Handler(Protocol):
    """Answers the events of a session; to refuse it raises a `MailtapeError`."""

    async def authenticate(self, login: Login) -> None:
        """Return when the credentials are good."""

    async def recipient(self, recipient: Recipient) -> Destination:
        """Say where mail for this recipient goes."""

    async def message(self, mail: Mail[Destination], client_address: str) -> None:
        """Take a mail over; return only when it is safe."""


class Resolver(Protocol):
    """Knows where mail goes, as `services.recipients.Recipients` does."""

    async def resolve(self, address: str) -> Destination:
        """Find whose mail this recipient's is."""


class MailHandler:
    """The handler of SMTP, over the services.

    `authenticate` tells whether a user name and a token belong together; None accepts whatever is
    shown, which is right for capture on loopback, where applications carry dummy credentials.
    """

    def __init__(
        self,
        queue: Queue,
        recipients: Resolver,
        authenticate: Callable[[str, str], Awaitable[bool]] | None,
    ) -> None:
        self._queue = queue
        self._recipients = recipients
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

    async def recipient(self, recipient: Recipient) -> Destination:
        """Find the recipient's organisation, unless the mail is announced as too large for it.

        Raises:
            NotFound: nobody's address.
            Invalid: `mailbox_message_too_large`.
            Unavailable: cannot tell at the moment.
        """
        destination = await self._recipients.resolve(recipient.address)
        if _exceeds(recipient.declared_octets, destination):
            raise Invalid("Too large for this mailbox.", code="mailbox_message_too_large")
        return destination

    async def message(self, mail: Mail[Destination], client_address: str) -> None:
        """Hand a mail to intake; on return it is durable.

        SMTP has one reply for all recipients, so a mail too large for one of them is refused
        whole: the alternative is a 250 of which one recipient's part is a lie.

        Raises:
            Invalid: `message_too_large`.
            Unavailable: the queue is full, or the mail could not be made certain.
        """
        if any(_exceeds(len(mail.raw), destination) for destination in mail.destinations):
            raise Invalid("Too large for a recipient.", code="message_too_large")
        await intake.accept(
            self._queue,
            mail.raw,
            now_us=time.time_ns() // 1000,
            protocol=envelope.Protocol.SMTP,
            mail_from=mail.mail_from,
            deliveries=_deliveries(mail),
            client_address=client_address,
            helo=mail.helo,
            tls=mail.tls,
        )


def _exceeds(octets: int, destination: Destination) -> bool:
    return destination.message_bytes is not None and octets > destination.message_bytes


def _deliveries(mail: Mail[Destination]) -> list[Delivery]:
    return [destination.delivery for destination in mail.destinations]
