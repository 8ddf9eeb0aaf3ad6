"""What a session cannot settle by itself: each event concerns somebody outside, and waits for them.

`Login`, `Recipient`, `Mail` and `StartTls` want an answer; `Abandoned` only tells; `Close` is the
last. `Destination` is whatever the caller gave for an accepted recipient and gets back with the
mail.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from mailtape.domain.envelope import Protocol

Destination = TypeVar("Destination")


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody shows credentials: answer AUTHENTICATED or a refusal."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Recipient(Generic[Destination]):
    """A new recipient is named: `accept_recipient`, or answer a refusal."""

    address: str
    """Valid, and as `domain.address.normalise` writes it."""
    declared_octets: int
    """What the client promised with SIZE; 0 when it did not."""
    transaction: str
    """A name for the transaction: the relay's queue id when it told one, else one of our own."""
    destinations: Collection[Destination] = field(default=(), compare=False, repr=False)
    """What was given for those that are accepted; it grows with the transaction."""


@dataclass(frozen=True, slots=True)
class Mail(Generic[Destination]):
    """A mail is complete: `answer_each`, with 250 only for whom it is safe."""

    transaction: str
    mail_from: str
    """The reverse path as it was written; empty for a bounce."""
    destinations: tuple[Destination, ...]
    """What was given for each recipient; one that was named twice stands here once."""
    raw: bytes
    """What came between DATA and the dot, unstuffed."""
    protocol: Protocol
    one_reply: bool
    """Whether the client hears a single reply, which must be true of every recipient."""
    client_address: str
    """Where the mail comes from, by a relay's word when there is one; empty when it knows not."""
    helo: str
    """What that client called itself."""
    tls: str
    """How the connection to us was encrypted; empty in clear."""
    queue_id: str
    """The relay's queue id; empty when it told none."""


@dataclass(frozen=True, slots=True)
class Abandoned(Generic[Destination]):
    """A transaction whose recipients were accepted brings no mail. Wants no answer."""

    transaction: str
    destinations: tuple[Destination, ...]
    queue_id: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send what is outgoing, stop reading, call `tls_begins`, shake hands, call `tls_agreed`."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is outgoing and hang up."""


Event: TypeAlias = (
    Login | Recipient[Destination] | Mail[Destination] | Abandoned[Destination] | StartTls | Close
)
