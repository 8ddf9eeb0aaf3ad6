"""SMTP (RFC 5321): the session of anybody who sends, with AUTH (RFC 4954) and a limit to patience.

Everybody may come here, so a client that collects refusals or does nothing is sent away. A mail has
one reply, whatever the number of its recipients.
"""

import binascii
from collections.abc import Mapping, Sequence
from enum import Enum

from mailtape_ingest import replies
from mailtape_ingest.data import Budget
from mailtape_ingest.events import Destination, Login
from mailtape_ingest.replies import Reply
from mailtape_ingest.session import Rules, Session

AUTH_OCTETS = 12288 + 2
"""RFC 4954, section 4: the longest base64 line, and its end."""

_IDLE_COMMANDS = frozenset({b"EHLO", b"HELO", b"RSET", b"NOOP", b"VRFY", b"HELP"})


class _Awaited(Enum):
    """What the next line of an authentication dialog is."""

    PLAIN = "the response to AUTH PLAIN"
    USER = "the user name of AUTH LOGIN"
    PASSWORD = "the password of AUTH LOGIN"  # noqa: S105  # names a line


class SmtpSession(Session[Destination]):
    """See the module's docstring."""

    _kind = "ESMTP"
    _help = replies.SMTP_HELP
    _one_reply = True

    def __init__(
        self, rules: Rules, budget: Budget, *, client_address: str = "", name: str = ""
    ) -> None:
        super().__init__(rules, budget, client_address=client_address, name=name)
        self._awaited: _Awaited | None = None
        self._authenticated = False
        self._login_user = ""
        self._errors = 0
        self._idle_commands = 0

    def answer(self, reply: Reply) -> None:
        """See `Session.answer`; a good `Login` is remembered."""
        if isinstance(self._question, Login):
            self._authenticated = reply.positive
        super().answer(reply)

    def tls_begins(self) -> None:
        """See `Session.tls_begins`."""
        super().tls_begins()
        self._authenticated = False

    def _longest_line(self, line: bytes) -> int:
        is_auth = self._awaited is not None or line[:5].upper() == b"AUTH "
        return AUTH_OCTETS if is_auth else super()._longest_line(line)

    def _hear(self, line: bytes) -> Reply | None:
        if self._awaited is not None:
            return self._log_in(self._awaited, line)
        if line.partition(b" ")[0].upper() in _IDLE_COMMANDS:
            self._idle_commands += 1
            self._errors += self._idle_commands > self._rules.idle_commands
        return super()._hear(line)

    def _conclude(self, named: Sequence[str], outcomes: Mapping[str, Reply]) -> None:  # noqa: ARG002
        worst = max(outcomes.values(), key=lambda reply: reply.code)
        if worst.positive:
            self._errors = self._idle_commands = 0
        self._say(worst)

    def _say(self, reply: Reply) -> None:
        """Send a reply, and count it when it is a refusal for good."""
        super()._say(reply)
        if reply.code >= 500:
            self._errors += 1
        if self._errors > self._rules.errors:
            self.hang_up(replies.TOO_MANY_ERRORS)

    def _obey_own(self, verb: str, argument: str) -> Reply | None:
        match verb:
            case "EHLO":
                return self._greet_back(argument)
            case "HELO":
                return self._meet(argument, extended=False)
            case "AUTH":
                return self._on_auth(argument)
            case _:
                return self._unknown(argument)

    def _extensions(self) -> list[str]:
        return super()._extensions() + (["AUTH PLAIN LOGIN"] if self._may_log_in else [])

    def _on_mail(self, argument: str) -> Reply:
        if self._helo and self._rules.auth_required and not self._authenticated:
            return replies.LOGIN_FIRST
        return super()._on_mail(argument)

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
                self._awaited, challenge = _Awaited.PLAIN, replies.GO_ON_PLAIN
            case "LOGIN":
                self._awaited, challenge = _Awaited.USER, replies.GO_ON_USER
            case _:
                return replies.UNKNOWN_MECHANISM if mechanism else replies.BAD_ARGUMENTS
        return self._log_in(self._awaited, initial.encode()) if initial else challenge

    def _log_in(self, awaited: _Awaited, response: bytes) -> Reply | None:
        """Take one line of an authentication dialog."""
        self._awaited = None
        if response == b"*":
            return replies.AUTH_CANCELLED
        text = _from_base64(response)
        if text is None:
            return replies.BAD_BASE64
        if awaited is _Awaited.USER:
            self._login_user = text
            self._awaited = _Awaited.PASSWORD
            return replies.GO_ON_PASSWORD
        if awaited is _Awaited.PASSWORD:
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
