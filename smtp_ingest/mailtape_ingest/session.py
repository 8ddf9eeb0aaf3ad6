"""One session of SMTP or LMTP, without I/O: bytes go in, events and replies come out (RFC 5321).

The loop that drives it is a few lines long:

    session.receive(data)
    while event := session.next_event():    # None: send `outgoing()`, come back with more data
        ...ask whom it concerns, then session.answer(reply)

What needs nobody else, order and form of the commands above all, is settled in here. What does is
one of `events` and waits for its answer. Commands that the client sent ahead (RFC 2920) wait in
line meanwhile.

Here stands what both protocols have in common; `smtp` and `lmtp` add how a client greets, and how
many replies a mail has.

The session knows no socket, no clock, no log, and nothing of mailboxes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Generic

from mailtape.domain import address
from mailtape.domain.envelope import Protocol
from mailtape.domain.errors import Invalid
from mailtape_ingest import replies, xforward
from mailtape_ingest.data import Budget, DataReader, Progress
from mailtape_ingest.events import (
    Abandoned,
    Close,
    Destination,
    Event,
    Mail,
    Recipient,
    StartTls,
)
from mailtape_ingest.replies import Reply
from mailtape_ingest.xforward import Forwarded

COMMAND_OCTETS = 512 + 26 + 17 + 10 + 500
"""RFC 5321, section 4.5.3.1.4, and what SIZE, BODY, SMTPUTF8 and AUTH add to MAIL."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one listener allows; the same for all of its sessions."""

    hostname: str
    """Our name in the greeting, and the domain of a bare Postmaster."""
    protocol: Protocol = Protocol.SMTP
    """SMTP or LMTP."""
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks of relays: only from there is XFORWARD taken, and LMTP at all."""
    message_octets: int = 30 * 2**20
    """SIZE (RFC 1870)."""
    recipients: int = 1000
    """In one transaction: RFC 5321, section 4.5.3.1.8 asks for 100, Postfix takes 1,000."""
    errors: int = 20
    """SMTP: 5xx replies since the last accepted mail before we hang up, as Postfix does."""
    idle_commands: int = 100
    """SMTP: NOOP, RSET and the like since the last mail before each is an error, as in Postfix."""
    tls: bool = False
    """Whether STARTTLS can be had."""
    auth_required: bool = False
    """SMTP: whether MAIL is refused to who has not authenticated."""
    auth_in_clear: bool = False
    """SMTP: whether AUTH may come before TLS; right on loopback only."""


class _Phase(Enum):
    """What the next bytes from the client are."""

    COMMAND = "a command"
    DATA = "a message"
    CLOSED = "nothing we listen to"


class _Transaction(Generic[Destination]):
    """From MAIL to the final dot (RFC 5321, section 3.3)."""

    __slots__ = ("declared_octets", "destinations", "mail_from", "name", "named", "smtputf8")

    def __init__(self, name: str, mail_from: str, *, declared_octets: int, smtputf8: bool) -> None:
        self.name = name
        self.mail_from = mail_from
        self.declared_octets = declared_octets
        self.smtputf8 = smtputf8
        self.destinations: dict[str, Destination] = {}
        """By normalised address: a recipient named twice gets the mail once."""
        self.named: list[str] = []
        """The accepted addresses in the order of RCPT, those named twice twice."""


class Session(ABC, Generic[Destination]):
    """See the module's docstring. `name` tells this session from all others, for our own ids."""

    _kind: str
    """What the greeting calls us."""
    _help: Reply
    _one_reply: bool
    """Whether a mail has one reply for all of its recipients."""

    def __init__(
        self, rules: Rules, budget: Budget, *, client_address: str = "", name: str = ""
    ) -> None:
        self._rules = rules
        self._budget = budget
        self._octets_kept = 0
        self._client_address = client_address
        self._name = name
        self._is_trusted = _is_within(client_address, rules.trusted)
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._phase = _Phase.COMMAND
        self._question: Event[Destination] | None = None
        self._abandoned: Abandoned[Destination] | None = None
        self._helo = ""
        self._extended = False
        self._tls = ""
        self._forwarded: Forwarded | None = None
        self._transactions = 0
        self._transaction: _Transaction[Destination] | None = None
        self._reader = DataReader(0, budget)

    # What differs between the protocols.

    @abstractmethod
    def _obey_own(self, verb: str, argument: str) -> Reply | None:
        """Obey a command that only this protocol has."""

    @abstractmethod
    def _conclude(self, named: Sequence[str], outcomes: Mapping[str, Reply]) -> None:
        """Say what became of a mail: by recipient, for those named in this order."""

    def _longest_line(self, line: bytes) -> int:  # noqa: ARG002  # for who has longer ones
        """Tell how many octets the line that begins so may have."""
        return COMMAND_OCTETS

    def _hear(self, line: bytes) -> Reply | None:
        """Take a line; gives the reply, or None when there is none yet."""
        return self._obey(line)

    # What the caller does.

    def greet(self) -> None:
        """Speak first (RFC 5321, section 3.1)."""
        self._say(Reply(220, "", f"{self._rules.hostname} {self._kind} Mailtape"))

    def receive(self, data: bytes) -> None:
        """Take what came from the client."""
        if self._phase is not _Phase.CLOSED:
            self._incoming += data

    def next_event(self) -> Event[Destination] | None:
        """Work on what came until somebody must be asked; None when more must come first.

        Not to be called while an event waits for its answer.
        """
        while self._question is None:
            if self._abandoned is not None:
                abandoned, self._abandoned = self._abandoned, None
                return abandoned
            if self._phase is _Phase.CLOSED:
                return Close()
            if not (self._read_message() if self.reads_message else self._read_line()):
                return None
        return self._question

    def outgoing(self) -> bytes:
        """Hand out, once, what the client is to be sent."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def accept_recipient(self, destination: Destination) -> None:
        """Answer `Recipient` with 250; `destination` comes back with the mail."""
        if isinstance(self._question, Recipient) and self._transaction is not None:
            self._transaction.destinations[self._question.address] = destination
            self._transaction.named.append(self._question.address)
        self.answer(replies.RECIPIENT_OK)

    def answer_each(self, outcomes: Sequence[Reply]) -> None:
        """Answer `Mail`: one reply for each of its destinations, in their order."""
        self._question = None
        self._give_back()
        transaction = self._end_transaction()
        if transaction is not None:
            by_name = dict(zip(transaction.destinations, outcomes, strict=True))
            self._conclude(transaction.named, by_name)

    def answer(self, reply: Reply) -> None:
        """Answer `Login`, a `Recipient` that is refused, or `Mail` with the same for all."""
        if isinstance(self._question, Mail):
            self.answer_each([reply] * len(self._question.destinations))
        else:
            self._question = None
            self._say(reply)

    def tls_begins(self) -> None:
        """Answer `StartTls`: what is received from here on comes under TLS.

        Everything from before is forgotten, above all commands that came behind STARTTLS: a man
        in the middle could have put them there (RFC 3207, section 4.2; CVE-2011-0411).
        """
        self._incoming.clear()
        self._question = None
        self._tls = "TLS"
        self._helo = ""
        self._extended = False
        self._forwarded = None

    def tls_agreed(self, description: str) -> None:
        """Note version and cipher once the handshake is done."""
        self._tls = description

    def hang_up(self, reply: Reply) -> None:
        """End the session from our side, with a last reply."""
        self._outgoing += reply.wire
        self.lose()

    def lose(self) -> None:
        """End the session without a word: the client is gone. It may be called again."""
        self._phase = _Phase.CLOSED
        self._incoming.clear()
        self._drop_transaction()
        if not isinstance(self._question, Mail):  # whose answer gives its octets back
            self._let_reader_go()

    @property
    def reads_message(self) -> bool:
        """Whether the client is in the middle of a message."""
        return self._phase is _Phase.DATA

    @property
    def waiting_octets(self) -> int:
        """How much came that nobody has looked at yet."""
        return len(self._incoming)

    # From bytes to lines and messages.

    def _read_line(self) -> bool:
        """Obey the next line; False when it has not come whole.

        Only CR LF ends it. Who sends CR or LF alone, or NUL, speaks no SMTP, or wants two hosts to
        disagree about where a command ends: we hang up before anything else of it is read.
        """
        incoming = self._incoming
        end = incoming.find(b"\n")
        line = bytes(incoming if end < 0 else incoming[:end])
        limit = self._longest_line(line)
        line = line[:limit]
        is_too_long = len(line) == limit
        ends_bare = end >= 0 and not is_too_long and not line.endswith(b"\r")
        if b"\0" in line or b"\r" in line[:-1] or ends_bare:
            self.hang_up(replies.BARE_LINE_END)
            return True
        if is_too_long:
            self.hang_up(replies.LINE_TOO_LONG)
            return True
        if end < 0:
            return False
        del incoming[: end + 1]
        reply = self._hear(line[:-1])
        if reply is not None:
            self._say(reply)
        return True

    def _read_message(self) -> bool:
        """Read on in the message; False when nothing more of it is here."""
        if not self._incoming:
            return False
        data = bytes(self._incoming)
        self._incoming.clear()
        match self._reader.feed(data):
            case Progress.READING:
                return False
            case Progress.GIVEN_UP:
                self._refuse_message(replies.TOO_LARGE)
                self.lose()
            case Progress.ENDED:
                self._phase = _Phase.COMMAND
                self._incoming += self._reader.remainder
                self._end_message(self._reader)
        return True

    def _end_message(self, reader: DataReader) -> None:
        transaction, raw = self._transaction, reader.message
        if raw is None or transaction is None:
            self._let_reader_go()
            self._refuse_message(replies.NO_ROOM if reader.crowded_out else replies.TOO_LARGE)
            return
        self._octets_kept, reader.taken = reader.taken, 0  # until the mail is answered
        self._let_reader_go()
        came_by = self._forwarded
        self._question = Mail(
            transaction=transaction.name,
            mail_from=transaction.mail_from,
            destinations=tuple(transaction.destinations.values()),
            raw=raw,
            protocol=self._rules.protocol,
            one_reply=self._one_reply,
            client_address=self._client_address if came_by is None else came_by.client_address,
            helo=self._helo if came_by is None else came_by.helo,
            tls=self._tls,
            queue_id="" if came_by is None else came_by.queue_id,
        )

    def _refuse_message(self, reply: Reply) -> None:
        """Refuse a mail that was not kept; nobody needs to be asked."""
        transaction = self._drop_transaction()
        if transaction is not None:
            outcomes = dict.fromkeys(transaction.destinations, reply)
            self._conclude(transaction.named, outcomes)

    def _let_reader_go(self) -> None:
        """Let go of the reader's bytes."""
        self._budget.give_back(self._reader.taken)
        self._reader = DataReader(0, self._budget)

    def _give_back(self) -> None:
        """Give back what the mail took that is answered now."""
        self._budget.give_back(self._octets_kept)
        self._octets_kept = 0

    def _say(self, reply: Reply) -> None:
        self._outgoing += reply.wire

    # Transactions.

    def _begin_transaction(self, mail_from: str, declared_octets: int, *, smtputf8: bool) -> None:
        self._transactions += 1
        queue_id = self._forwarded.queue_id if self._forwarded else ""
        self._transaction = _Transaction(
            queue_id or f"{self._name}.{self._transactions}",
            mail_from,
            declared_octets=declared_octets,
            smtputf8=smtputf8,
        )

    def _end_transaction(self) -> _Transaction[Destination] | None:
        """Forget the transaction, and what a relay told about it."""
        transaction, self._transaction = self._transaction, None
        self._forwarded = None
        return transaction

    def _drop_transaction(self) -> _Transaction[Destination] | None:
        """Forget the transaction, and have it told that its mail will not come."""
        queue_id = self._forwarded.queue_id if self._forwarded else ""
        transaction = self._end_transaction()
        if transaction is not None and transaction.destinations:
            self._abandoned = Abandoned(
                transaction.name, tuple(transaction.destinations.values()), queue_id
            )
        return transaction

    # The commands: each checks order, then form, and returns its reply; None when it has none yet.

    def _obey(self, line: bytes) -> Reply | None:
        try:
            text = line.decode().rstrip(" ")
        except UnicodeDecodeError:
            return replies.NOT_UTF8
        verb, _, argument = text.partition(" ")
        match verb.upper():
            case "MAIL":
                return self._on_mail(argument)
            case "RCPT":
                return self._on_rcpt(argument)
            case "DATA":
                return self._on_data(argument)
            case "RSET":
                return self._on_rset(argument)
            case "NOOP":
                return replies.DONE
            case "QUIT":
                return self._on_quit(argument)
            case "VRFY":
                return self._on_vrfy(argument)
            case "HELP":
                return self._help
            case "STARTTLS":
                return self._on_starttls(argument)
            case "XFORWARD":
                return self._on_xforward(argument)
            case other:
                return self._obey_own(other, argument)

    def _unknown(self, argument: str) -> Reply | None:
        """Refuse; to a browser that was lured here say nothing that it could take for an answer."""
        if not self._helo and argument.upper().endswith((" HTTP/1.0", " HTTP/1.1", " HTTP/2.0")):
            self.lose()
            return None
        return replies.UNKNOWN_COMMAND

    def _greet_back(self, argument: str) -> Reply:
        """Answer EHLO or LHLO."""
        reply = self._meet(argument, extended=True)
        if not reply.positive:
            return reply
        return Reply(250, "", "\n".join([self._rules.hostname, *self._extensions()]))

    def _extensions(self) -> list[str]:
        extensions = [
            f"SIZE {self._rules.message_octets}",
            "8BITMIME",
            "SMTPUTF8",
            "PIPELINING",
            "ENHANCEDSTATUSCODES",
        ]
        if self._rules.tls and not self._tls:
            extensions.append("STARTTLS")
        if self._is_trusted:
            extensions.append(f"XFORWARD {' '.join(xforward.ATTRIBUTES)}")
        return extensions

    def _meet(self, argument: str, *, extended: bool) -> Reply:
        # What the client calls itself is kept for the reader, not believed: any one word will do.
        if not argument or " " in argument or not argument.isprintable():
            return replies.BAD_ARGUMENTS
        if len(argument.encode()) > address.DOMAIN_OCTETS:
            return replies.BAD_ARGUMENTS
        self._helo = argument
        self._extended = extended
        self._drop_transaction()  # RFC 5321, section 4.1.4
        return Reply(250, "", self._rules.hostname)

    def _on_mail(self, argument: str) -> Reply:
        if not self._helo:
            return replies.HELLO_FIRST
        if self._transaction is not None:
            return replies.MAIL_IS_OPEN
        if argument[:5].upper() != "FROM:":
            return replies.BAD_ARGUMENTS
        declared_octets, smtputf8 = 0, False
        try:
            # The space is one that the grammar does not know and half the world's clients send.
            path, parameters = address.split_path(argument[5:].lstrip(" "))
            if parameters:
                read = self._mail_parameters(parameters)
                if isinstance(read, Reply):
                    return read
                declared_octets, smtputf8 = read
            mail_from = address.reverse_path(path, smtputf8=smtputf8)
        except Invalid as error:
            reply = replies.for_error(error)
            return replies.BAD_SENDER if reply is replies.BAD_RECIPIENT else reply
        self._begin_transaction(mail_from, declared_octets, smtputf8=smtputf8)
        return replies.SENDER_OK

    def _mail_parameters(self, parameters: str) -> tuple[int, bool] | Reply:
        """Read what stands behind the reverse path: the declared size, and whether SMTPUTF8."""
        if not self._extended:
            return replies.UNKNOWN_PARAMETER
        declared_octets, seen = 0, set[str]()
        for parameter in parameters.split():
            keyword, _, value = parameter.partition("=")
            keyword = keyword.upper()
            if keyword in seen:
                return replies.BAD_ARGUMENTS
            seen.add(keyword)
            match keyword:
                case "SIZE" if value.isascii() and value.isdigit() and len(value) <= 20:
                    declared_octets = int(value)
                case "BODY" if value.upper() in {"7BIT", "8BITMIME"}:
                    pass  # raw bytes are kept either way
                case "SMTPUTF8" if parameter.upper() == keyword:
                    pass
                case "AUTH" if value:
                    pass  # RFC 4954, section 5: nobody is trusted to vouch for another
                case "SIZE" | "BODY" | "SMTPUTF8" | "AUTH":
                    return replies.BAD_ARGUMENTS
                case _:
                    return replies.UNKNOWN_PARAMETER
        if declared_octets > self._rules.message_octets:
            return replies.TOO_LARGE
        return declared_octets, "SMTPUTF8" in seen

    def _on_rcpt(self, argument: str) -> Reply | None:
        transaction = self._transaction
        if transaction is None:
            return replies.MAIL_FIRST
        if argument[:3].upper() != "TO:":
            return replies.BAD_ARGUMENTS
        try:
            path, parameters = address.split_path(argument[3:].lstrip(" "))
            if parameters:
                return replies.UNKNOWN_PARAMETER
            name = address.normalise(
                address.forward_path(
                    path, postmaster_at=self._rules.hostname, smtputf8=transaction.smtputf8
                )
            )
        except Invalid as error:
            return replies.for_error(error)
        if len(transaction.named) >= self._rules.recipients:
            return replies.TOO_MANY_RECIPIENTS
        if name in transaction.destinations:
            transaction.named.append(name)
            return replies.RECIPIENT_OK
        self._question = Recipient(
            name, transaction.declared_octets, transaction.name, transaction.destinations.values()
        )
        return None

    def _on_data(self, argument: str) -> Reply:
        if self._transaction is None:
            return replies.MAIL_FIRST
        if not self._transaction.destinations:
            return replies.RECIPIENT_FIRST
        if argument:
            return replies.BAD_ARGUMENTS
        # At least one octet: who declares nothing is not let in where nothing can be kept.
        if not self._budget.has_room(max(1, self._transaction.declared_octets)):
            self._drop_transaction()
            return replies.NO_ROOM
        self._reader = DataReader(self._rules.message_octets, self._budget)
        self._phase = _Phase.DATA
        return replies.SEND_MESSAGE

    def _on_rset(self, argument: str) -> Reply:
        if argument:
            return replies.BAD_ARGUMENTS
        self._drop_transaction()
        return replies.DONE

    def _on_vrfy(self, argument: str) -> Reply:
        # RFC 5321, section 7.3: who may know which mailboxes exist asks the API.
        return replies.CANNOT_VERIFY if argument else replies.BAD_ARGUMENTS

    def _on_quit(self, argument: str) -> Reply | None:
        if argument:
            return replies.BAD_ARGUMENTS
        self.hang_up(replies.GOODBYE)
        return None

    def _on_starttls(self, argument: str) -> Reply:
        if argument:
            return replies.BAD_ARGUMENTS
        if self._tls:
            return replies.TLS_IS_ON
        if not self._rules.tls:
            return replies.NO_TLS
        if self._transaction is not None:
            return replies.MAIL_IS_OPEN
        self._question = StartTls()
        return replies.READY_FOR_TLS

    def _on_xforward(self, argument: str) -> Reply:
        if not self._is_trusted:
            return replies.REFUSED
        if not self._helo:
            return replies.HELLO_FIRST
        if self._transaction is not None:
            return replies.MAIL_IS_OPEN
        forwarded = xforward.read(argument, self._forwarded or Forwarded())
        if forwarded is None:
            return replies.BAD_ARGUMENTS
        self._forwarded = forwarded
        return replies.DONE


def _is_within(client_address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        client = ip_address(client_address)
    except ValueError:  # no address at all, as on a Unix socket
        return False
    if isinstance(client, IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped  # an IPv4 client of a listener on [::]
    return any(client in network for network in networks)
