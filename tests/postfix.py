"""A Postfix of a test's own in front of Mailtape, as `deploy/services` starts it."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import free_ports
from senders import SENDER, Line, insist, stuffed
from served import environment

SERVICES = Path(__file__).parents[1] / "deploy" / "services"
COMMANDS = Path("/usr/sbin")
"""Where Debian keeps them; a user's PATH may not name it."""
_QUEUES = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt")
_START_SECONDS = 60
_FLUSH_SECONDS = 3
_NOT_NOW = b"451 4.3.0"


class Postfix:
    """One instance: its folders, its port, and what can be seen of it from outside."""

    def __init__(self, folder: Path, *, policy: str, lmtp: str) -> None:
        self.folder = folder / "postfix"
        self.smtp = f"127.0.0.1:{free_ports(1)[0]}"
        self._environment = environment(
            SERVICES_FOLDER=str(folder),
            POSTFIX_SMTP=self.smtp,
            POLICY_LISTEN=policy,
            LMTP_LISTEN=lmtp,
            POSTFIX_RETRY="1s",
            POSTFIX_RETRY_MOST="1s",
        )

    def services(self, *arguments: str) -> str:
        """Run `deploy/services` on this instance; gives what it says."""
        return subprocess.run(
            [SERVICES, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_START_SECONDS,
            check=True,
        ).stdout

    @property
    def log(self) -> str:
        """What it has written to its log."""
        return (self.folder / "mail.log").read_text()

    def queued(self) -> list[str]:
        """List the queue ids of the mails that it holds."""
        queue = self.folder / "queue"
        return [
            file.name for name in _QUEUES for file in (queue / name).rglob("*") if file.is_file()
        ]

    def wait_until_empty(self, seconds: float = 20) -> None:
        """Wait until it has handed over, refused or dropped everything.

        It is asked to try again now and then: a mail that it looked at in the moment in which it
        put it off would wait for a minute, whatever its settings say (qmgr_active_feed). What it
        still holds in the end is a failure, and is dropped: it is not the next test's.
        """
        deadline = time.monotonic() + seconds
        flushed = time.monotonic()
        while queued := self.queued():
            if time.monotonic() > flushed + _FLUSH_SECONDS:
                flushed = time.monotonic()
                # It wakes the queue manager, then fails at what sendmail(1) leaves: no pickup runs.
                self.command("postqueue", "-f", check=False)
            if time.monotonic() > deadline:
                self.command("postsuper", "-d", "ALL")
                raise AssertionError(f"Postfix still holds {queued}")
            time.sleep(0.02)

    def command(
        self, name: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Postfix's commands on this instance."""
        return subprocess.run(
            [COMMANDS / name, "-c", self.folder / "conf", *arguments],
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=check,
        )

    def wait_for_log(self, words: str, seconds: float = 20) -> None:
        """Wait until its log says this."""
        deadline = time.monotonic() + seconds
        while words not in self.log:
            assert time.monotonic() < deadline, f"Postfix does not say {words!r}"
            time.sleep(0.02)


@contextmanager
def receiving(*, policy: str, lmtp: str, prints: bool = True) -> Iterator[Postfix]:
    """Receive mail for a Mailtape for as long as the context lasts, and print its log in the end.

    Its folder is not pytest's, which only its owner may enter: Postfix has a user of its own.
    """
    prefix = "mailtape-postfix-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        postfix = Postfix(Path(folder), policy=policy, lmtp=lmtp)
        try:
            postfix.services("up", "postfix")
            yield postfix
        finally:
            if prints and (postfix.folder / "mail.log").exists():
                print(f"--- the end of Postfix's log\n{postfix.log[-20_000:]}")
            postfix.services("down")


def _put_off(reply: bytes) -> bool:
    return reply.startswith(_NOT_NOW)


@contextmanager
def greeted(postfix: Postfix, source: str | None = None) -> Iterator[Line]:
    """Connect, from this address if one is given, and greet."""
    with Line(postfix.smtp, source=source) as line:
        assert line.hello().startswith(b"250")
        yield line


def name_recipient(line: Line, path: bytes) -> bytes:
    """Name a recipient, written as it is, until somebody can tell; gives the reply.

    It stays one transaction, by whose instance the policy daemon knows what it has held already.
    """
    return insist(lambda: line.say(b"RCPT TO:" + path), _put_off)


def announce(line: Line, *recipients: str, sender: bytes = SENDER) -> list[bytes]:
    """Name sender and recipients; gives the reply to each recipient, to its enhanced code."""
    assert line.say(b"MAIL FROM:<%b>" % sender).startswith(b"250")
    return [name_recipient(line, b"<%b>" % each.encode())[:9] for each in recipients]


def begin(line: Line, *recipients: str, sender: bytes = SENDER) -> list[bytes]:
    """Come as far as the bytes of a mail, as `announce` does."""
    replies = announce(line, *recipients, sender=sender)
    assert insist(lambda: line.say(b"DATA"), _put_off).startswith(b"354")
    return replies


def send(
    postfix: Postfix,
    *recipients: str,
    raw: bytes,
    sender: bytes = SENDER,
    source: str | None = None,
) -> bytes:
    """Send a mail to those who take it; gives the reply to its last dot.

    Of one recipient Postfix asks there once more. A mail that is put off then comes again as
    another, and may have been held room for in vain.
    """

    def offer() -> bytes:
        with greeted(postfix, source) as line:
            begin(line, *recipients, sender=sender)
            line.socket.sendall(stuffed(raw))
            return line.reply()

    return insist(offer, _put_off)
