"""Every reply the server gives of its own accord, and the one way from a "no" to a reply.

Why a recipient is refused is worded in `domain.quota`, for all doors alike.

Codes after RFC 5321, section 4.2, enhanced codes after RFC 3463 and its registry. 4xx where waiting
helps, 5xx where it does not. Texts are ours and ASCII; nothing a peer or an exception said is
ever repeated.
"""

from dataclasses import dataclass, field
from functools import cache

from mailtape.domain import errors, quota
from mailtape.domain.errors import MailtapeError
from mailtape.domain.quota import Decision, Refusal


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply; its text may have several lines.

    `enhanced` is empty where RFC 2034 wants none: greeting, EHLO, and all of 3xx.
    """

    code: int
    enhanced: str
    text: str
    wire: bytes = field(init=False, repr=False, compare=False)
    """The reply as it is sent."""

    def __post_init__(self) -> None:
        lines = [f"{self.enhanced} {line}".lstrip() for line in self.text.split("\n")]
        before = "".join(f"{self.code}-{line}\r\n" for line in lines[:-1])
        wire = f"{before}{self.code} {lines[-1]}\r\n".encode("ascii")
        object.__setattr__(self, "wire", wire)

    @property
    def positive(self) -> bool:
        """Whether the client got what it asked for."""
        return self.code < 400


@cache  # there are as many as `domain.quota` has reasons
def _worded(refusal: Refusal) -> Reply:
    return Reply(refusal.code, refusal.enhanced, refusal.text)


# Done.
GOODBYE = Reply(221, "2.0.0", "Goodbye")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED = Reply(235, "2.7.0", "Authentication succeeded")
DONE = Reply(250, "2.0.0", "OK")
SENDER_OK = Reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient OK")
MESSAGE_KEPT = Reply(250, "2.0.0", "Message accepted")
CANNOT_VERIFY = Reply(252, "2.5.0", "Send the mail and see")
SMTP_HELP = Reply(214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP STARTTLS AUTH")
LMTP_HELP = Reply(214, "2.0.0", "LHLO XFORWARD MAIL RCPT DATA RSET NOOP QUIT VRFY HELP")

# Go on.
GO_ON_PLAIN = Reply(334, "", "")
GO_ON_USER = Reply(334, "", "VXNlcm5hbWU6")
GO_ON_PASSWORD = Reply(334, "", "UGFzc3dvcmQ6")
SEND_MESSAGE = Reply(354, "", "End data with <CR><LF>.<CR><LF>")

# Try again later.
IDLE_TOO_LONG = Reply(421, "4.4.2", "Timed out")
SHUTTING_DOWN = Reply(421, "4.3.2", "Shutting down")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
NOT_TRUSTED = Reply(421, "4.7.1", "Not a network that this service is for")
UNAVAILABLE = Reply(451, "4.3.0", "Temporary failure, try again later")
NO_ROOM = Reply(452, "4.3.1", "Too much mail at once, try again later")
STORE_FULL = Reply(452, "4.3.1", "Insufficient storage")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")

# Never like this.
BARE_LINE_END = Reply(500, "5.5.2", "Lines end with CR LF, and hold neither alone, nor NUL")
LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
UNKNOWN_COMMAND = Reply(500, "5.5.1", "Command not recognised")
NOT_UTF8 = Reply(500, "5.5.2", "Not UTF-8")
BAD_RECIPIENT = _worded(quota.MALFORMED_ADDRESS)
BAD_SENDER = Reply(501, "5.1.7", quota.MALFORMED_ADDRESS.text)
BAD_ARGUMENTS = Reply(501, "5.5.4", "Syntax error in arguments")
BAD_BASE64 = Reply(501, "5.5.2", "Not an AUTH response in base64")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
NO_TLS = Reply(502, "5.5.1", "TLS is not available")
TLS_IS_ON = Reply(503, "5.5.1", "TLS is on already")
HELLO_FIRST = Reply(503, "5.5.1", "Say hello first")
MAIL_FIRST = Reply(503, "5.5.1", "Send MAIL first")
RECIPIENT_FIRST = Reply(503, "5.5.1", "Send RCPT first")
MAIL_IS_OPEN = Reply(503, "5.5.1", "A mail is open; send RSET to drop it")
LOGGED_IN_ALREADY = Reply(503, "5.5.1", "Authenticated already")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "Authentication mechanism not supported")
LOGIN_FIRST = Reply(530, "5.7.0", "Authentication required")
BAD_CREDENTIALS = Reply(535, "5.7.8", "Authentication credentials invalid")
LOGIN_NEEDS_TLS = Reply(538, "5.7.11", "Send STARTTLS before AUTH")
REFUSED = Reply(550, "5.7.1", "Refused")
TOO_LARGE = Reply(552, "5.3.4", "Message too large")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "A non-ASCII address needs SMTPUTF8")
NOT_SUPPORTED = Reply(554, "5.3.3", "Not supported here")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognised")

_BY_CODE: dict[str, Reply] = {
    "address_not_ascii": NEEDS_SMTPUTF8,
    "address_syntax": BAD_RECIPIENT,
}

_BY_CLASS: dict[type[MailtapeError], Reply] = {
    MailtapeError: UNAVAILABLE,
    errors.Refused: REFUSED,
    errors.Invalid: REFUSED,
    errors.NotFound: REFUSED,
    errors.Conflict: REFUSED,
    errors.Unauthenticated: BAD_CREDENTIALS,
    errors.Forbidden: REFUSED,
    errors.NotSupported: NOT_SUPPORTED,
    errors.TooMany: UNAVAILABLE,
    errors.Unavailable: UNAVAILABLE,
    errors.StoreFull: STORE_FULL,
}


def for_error(error: MailtapeError) -> Reply:
    """Say what an error means to the peer: by its code where that tells more than its class."""
    return _BY_CODE.get(error.code) or _BY_CLASS[type(error)]


def for_decision(decision: Decision) -> Reply | None:
    """Say why a recipient is refused; None for one that is taken."""
    refusal = quota.refusal(decision)
    return None if refusal is None else _worded(refusal)
