"""One SMTP session, without I/O: bytes go in, events and replies come out (RFC 5321).

The loop that drives it is a few lines long:

    session.receive(data)
    while event := session.next_event():    # None: send `outgoing()`, come back with more data
        ...ask whom it concerns, then session.answer(reply)

What needs nobody else, order and form of the commands above all, is settled in here. What does is
an event and waits for its answer: `Login`, `Recipient`, `Mail`, `StartTls`. `Close` is the last.
Commands that the client sent ahead (RFC 2920) wait in line meanwhile.

The session knows no socket, no clock, no log, and nothing of mailboxes: `Destination` is whatever
the caller gave for an accepted recipient and gets back with the mail.
"""

import binascii
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

from mailtape.domain import address
from mailtape.domain.errors import Invalid
from mailtape_ingest import replies
from mailtape_ingest.data import Budget, DataReader, Progress
from mailtape_ingest.replies import Reply

Destination = TypeVar("Destination")

COMMAND_OCTETS = 512 + 26 + 17 + 10 + 500
"""RFC 5321, section 4.5.3.1.4, and what SIZE, BODY, SMTPUTF8 and AUTH add to MAIL."""
AUTH_OCTETS = 12288 + 2
"""RFC 4954, section 4: the longest base64 line, and its end."""

_IDLE_COMMANDS = frozenset({"EHLO", "HELO", "RSET", "NOOP", "VRFY", "HELP"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What one listener allows; the same for all of its sessions."""

    hostname: str
    """Our name in the greeting, and the domain of a bare Postmaster."""
    message_octets: int = 30 * 2**20
    """SIZE (RFC 1870)."""
    recipients: int = 1000
    """In one transaction: RFC 5321, section 4.5.3.1.8 asks for 100, Postfix takes 1,000."""
    errors: int = 20
    """5xx replies since the last accepted mail before we hang up, as Postfix's hard error limit."""
    idle_commands: int = 100
    """NOOP, RSET and the like since the last mail before each is an error, as in Postfix."""
    tls: bool = False
    """Whether STARTTLS can be had."""
    auth_required: bool = False
    """Whether MAIL is refused to who has not authenticated."""
    auth_in_clear: bool = False
    """Whether AUTH may come before TLS; right on loopback only."""


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody shows credentials: answer AUTHENTICATED or a refusal."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """A new recipient is named: `accept_recipient`, or answer a refusal."""

    address: str
    """Valid, and as `domain.address.normalise` writes it."""
    declared_octets: int
    """What the client promised with SIZE; 0 when it did not."""


@dataclass(frozen=True, slots=True)
class Mail(Generic[Destination]):
    """A mail is complete: answer 250 only when it is safe."""

    mail_from: str
    """The reverse path as it was written; empty for a bounce."""
    destinations: tuple[Destination, ...]
    raw: bytes
    """What came between DATA and the dot, unstuffed."""
    helo: str
    tls: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send what is outgoing, stop reading, call `tls_begins`, shake hands, call `tls_agreed`."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is outgoing and hang up."""


Event: TypeAlias = Login | Recipient | Mail[Destination] | StartTls | Close


class _Phase(Enum):
    """What the next bytes from the client are."""

    COMMAND = "a command"
    PLAIN = "the response to AUTH PLAIN"
    USER = "the user name of AUTH LOGIN"
    PASSWORD = "the password of AUTH LOGIN"  # noqa: S105  # names a phase
    DATA = "a message"
    CLOSED = "nothing we listen to"


class _Transaction(Generic[Destination]):
    """From MAIL to the final dot (RFC 5321, section 3.3)."""

    __slots__ = ("declared_octets", "destinations", "mail_from", "smtputf8")

    def __init__(self, mail_from: str, *, declared_octets: int, smtputf8: bool) -> None:
        self.mail_from = mail_from
        self.declared_octets = declared_octets
        self.smtputf8 = smtputf8
        # By normalised address: a recipient named twice gets the mail once.
        self.destinations: dict[str, Destination] = {}


class Session(Generic[Destination]):
    """See the module's docstring."""

    def __init__(self, rules: Rules, budget: Budget) -> None:
        self._rules = rules
        self._budget = budget
        self._octets_kept = 0
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._phase = _Phase.COMMAND
        self._question: Event[Destination] | None = None
        self._helo = ""
        self._extended = False
        self._tls = ""
        self._authenticated = False
        self._login_user = ""
        self._transaction: _Transaction[Destination] | None = None
        self._reader = DataReader(0, budget)
        self._errors = 0
        self._idle_commands = 0

    # What the caller does.

    def greet(self) -> None:
        """Speak first (RFC 5321, section 3.1)."""
        self._say(Reply(220, "", f"{self._rules.hostname} ESMTP Mailtape"))

    def receive(self, data: bytes) -> None:
        """Take what came from the client."""
        if self._phase is not _Phase.CLOSED:
            self._incoming += data

    def next_event(self) -> Event[Destination] | None:
        """Work on what came until somebody must be asked; None when more must come first.

        Not to be called while an event waits for its answer.
        """
        while self._question is None:
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
        self.answer(replies.RECIPIENT_OK)

    def answer(self, reply: Reply) -> None:
        """Answer `Login`, `Mail`, or a `Recipient` that is refused."""
        if isinstance(self._question, Login):
            self._authenticated = reply.positive
        elif isinstance(self._question, Mail):
            self._give_back()
            self._transaction = None
            if reply.positive:
                self._errors = self._idle_commands = 0
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
        self._authenticated = False

    def tls_agreed(self, description: str) -> None:
        """Note version and cipher once the handshake is done."""
        self._tls = description

    def hang_up(self, reply: Reply) -> None:
        """End the session from our side, with a last reply."""
        self._outgoing += reply.wire
        self.abandon()

    def abandon(self) -> None:
        """End the session without a word: there is nobody any more. It may be called again."""
        self._phase = _Phase.CLOSED
        self._incoming.clear()
        self._transaction = None
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
        is_auth = self._phase is not _Phase.COMMAND or line[:5].upper() == b"AUTH "
        limit = AUTH_OCTETS if is_auth else COMMAND_OCTETS
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
        reply = self._obey(line[:-1]) if self._phase is _Phase.COMMAND else self._log_in(line[:-1])
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
                self.hang_up(replies.TOO_LARGE)
            case Progress.ENDED:
                self._phase = _Phase.COMMAND
                self._incoming += self._reader.remainder
                self._end_message(self._reader)
        return True

    def _end_message(self, reader: DataReader) -> None:
        transaction, raw = self._transaction, reader.message
        if raw is None or transaction is None:
            self._transaction = None
            self._let_reader_go()
            self._say(replies.NO_ROOM if reader.crowded_out else replies.TOO_LARGE)
        else:
            self._octets_kept, reader.taken = reader.taken, 0  # until the mail is answered
            self._let_reader_go()
            self._question = Mail(
                mail_from=transaction.mail_from,
                destinations=tuple(transaction.destinations.values()),
                raw=raw,
                helo=self._helo,
                tls=self._tls,
            )

    def _let_reader_go(self) -> None:
        """Let go of the reader's bytes."""
        self._budget.give_back(self._reader.taken)
        self._reader = DataReader(0, self._budget)

    def _give_back(self) -> None:
        """Give back what the mail took that is answered now."""
        self._budget.give_back(self._octets_kept)
        self._octets_kept = 0

    def _say(self, reply: Reply) -> None:
        """Send a reply, and count it when it is a refusal for good."""
        self._outgoing += reply.wire
        if reply.code >= 500:
            self._errors += 1
        if self._errors > self._rules.errors:
            self.hang_up(replies.TOO_MANY_ERRORS)

    # The commands: each checks order, then form, and returns its reply; None when it has none yet.

    def _obey(self, line: bytes) -> Reply | None:
        try:
            text = line.decode().rstrip(" ")
        except UnicodeDecodeError:
            return replies.NOT_UTF8
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        if verb in _IDLE_COMMANDS:
            self._idle_commands += 1
            self._errors += self._idle_commands > self._rules.idle_commands
        match verb:
            case "MAIL":
                return self._on_mail(argument)
            case "RCPT":
                return self._on_rcpt(argument)
            case "DATA":
                return self._on_data(argument)
            case "EHLO":
                return self._on_ehlo(argument)
            case "HELO":
                return self._on_helo(argument)
            case "RSET":
                return self._on_rset(argument)
            case "NOOP":
                return replies.DONE
            case "QUIT":
                return self._on_quit(argument)
            case "VRFY":
                return self._on_vrfy(argument)
            case "HELP":
                return replies.HELP
            case "STARTTLS":
                return self._on_starttls(argument)
            case "AUTH":
                return self._on_auth(argument)
            case _:
                return self._unknown(text)

    def _unknown(self, text: str) -> Reply | None:
        """Refuse; to a browser that was lured here say nothing that it could take for an answer."""
        if not self._helo and text.upper().endswith((" HTTP/1.0", " HTTP/1.1", " HTTP/2.0")):
            self._phase = _Phase.CLOSED
            self._incoming.clear()
            return None
        return replies.UNKNOWN_COMMAND

    def _on_ehlo(self, argument: str) -> Reply:
        reply = self._greet(argument, extended=True)
        if not reply.positive:
            return reply
        extensions = [
            self._rules.hostname,
            f"SIZE {self._rules.message_octets}",
            "8BITMIME",
            "SMTPUTF8",
            "PIPELINING",
            "ENHANCEDSTATUSCODES",
        ]
        if self._rules.tls and not self._tls:
            extensions.append("STARTTLS")
        if self._may_log_in:
            extensions.append("AUTH PLAIN LOGIN")
        return Reply(250, "", "\n".join(extensions))

    def _on_helo(self, argument: str) -> Reply:
        return self._greet(argument, extended=False)

    def _greet(self, argument: str, *, extended: bool) -> Reply:
        # What the client calls itself is kept for the reader, not believed: any one word will do.
        if not argument or " " in argument or not argument.isprintable():
            return replies.BAD_ARGUMENTS
        if len(argument.encode()) > address.DOMAIN_OCTETS:
            return replies.BAD_ARGUMENTS
        self._helo = argument
        self._extended = extended
        self._transaction = None  # RFC 5321, section 4.1.4
        return Reply(250, "", self._rules.hostname)

    def _on_mail(self, argument: str) -> Reply:
        if not self._helo:
            return replies.HELLO_FIRST
        if self._transaction is not None:
            return replies.MAIL_IS_OPEN
        if self._rules.auth_required and not self._authenticated:
            return replies.LOGIN_FIRST
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
        self._transaction = _Transaction(
            mail_from, declared_octets=declared_octets, smtputf8=smtputf8
        )
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
        if name in transaction.destinations:
            return replies.RECIPIENT_OK
        if len(transaction.destinations) >= self._rules.recipients:
            return replies.TOO_MANY_RECIPIENTS
        self._question = Recipient(name, transaction.declared_octets)
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
            self._transaction = None
            return replies.NO_ROOM
        self._reader = DataReader(self._rules.message_octets, self._budget)
        self._phase = _Phase.DATA
        return replies.SEND_MESSAGE

    def _on_rset(self, argument: str) -> Reply:
        if argument:
            return replies.BAD_ARGUMENTS
        self._transaction = None
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

    # AUTH (RFC 4954): PLAIN (RFC 4616) and LOGIN, which no RFC describes and every client speaks.

    @property
    def _may_log_in(self) -> bool:
        return bool(self._tls) or self._rules.auth_in_clear

    def _on_auth(self, argument: str) -> Reply | None:
        if not self._extended:
            return replies.HELLO_FIRST
        if self._authenticated:
            return replies.LOGGED_IN_ALREADY
        if self._transaction is not None:
            return replies.MAIL_IS_OPEN
        if not self._may_log_in:
            return replies.LOGIN_NEEDS_TLS
        mechanism, _, initial = argument.partition(" ")
        match mechanism.upper():
            case "PLAIN":
                self._phase, challenge = _Phase.PLAIN, replies.GO_ON_PLAIN
            case "LOGIN":
                self._phase, challenge = _Phase.USER, replies.GO_ON_USER
            case _:
                return replies.UNKNOWN_MECHANISM if mechanism else replies.BAD_ARGUMENTS
        return self._log_in(initial.encode()) if initial else challenge

    def _log_in(self, response: bytes) -> Reply | None:
        """Take one line of an authentication dialog."""
        phase, self._phase = self._phase, _Phase.COMMAND
        if response == b"*":
            return replies.AUTH_CANCELLED
        text = _from_base64(response)
        if text is None:
            return replies.BAD_BASE64
        if phase is _Phase.USER:
            self._login_user = text
            self._phase = _Phase.PASSWORD
            return replies.GO_ON_PASSWORD
        if phase is _Phase.PASSWORD:
            self._question = Login(self._login_user, text)
            return None
        # PLAIN: who to act as, who it is, password. We know no acting for others.
        parts = text.split("\0")
        if len(parts) != 3 or not parts[1]:
            return replies.BAD_BASE64
        self._question = Login(parts[1], parts[2])
        return None


def _from_base64(response: bytes) -> str | None:
    """Decode a response; `=` stands for an empty one (RFC 4954, section 4). None when malformed."""
    if response == b"=":
        return ""
    try:
        return binascii.a2b_base64(response, strict_mode=True).decode()
    except ValueError:  # binascii.Error and UnicodeDecodeError both are
        return None
