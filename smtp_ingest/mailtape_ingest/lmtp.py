"""LMTP (RFC 2033): the session of a relay that hands mail over for good.

It differs from SMTP in two points. The client greets with LHLO, and after the dot every RCPT that
was accepted has a reply of its own, in the order of RCPT: a recipient that was named twice has two,
although it is one delivery. A client that waits for a reply that does not come waits for minutes
and sends the mail again, so the number of replies is right however a mail ends.

Only relays of our own come here, and each speaks for many senders. They are not sent away for the
number of refusals they collect: that would put off everybody else's mail.
"""

from collections.abc import Mapping, Sequence

from mailtape_ingest import replies
from mailtape_ingest.events import Destination
from mailtape_ingest.replies import Reply
from mailtape_ingest.session import Session


class LmtpSession(Session[Destination]):
    """See the module's docstring."""

    _kind = "LMTP"
    _help = replies.LMTP_HELP
    _one_reply = False

    def greet(self) -> None:
        """Speak first; to strangers last, too."""
        if self._is_trusted:
            super().greet()
        else:
            self.hang_up(replies.NOT_TRUSTED)

    def _obey_own(self, verb: str, argument: str) -> Reply | None:
        if verb == "LHLO":
            return self._greet_back(argument)
        return self._unknown(argument)  # EHLO and HELO among them: RFC 2033, section 4.1

    def _conclude(self, named: Sequence[str], outcomes: Mapping[str, Reply]) -> None:
        for name in named:
            self._say(outcomes[name])
