"""Another program holds the database locked: nobody can decide, and the operator chose what then.

The lock is the operating system's, on the bytes that SQLite's readers share (its WAL-index locks),
so the server's own connections really wait, as they do for a program that has gone wrong.
"""

import fcntl
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inbox import Inbox, reading
from senders import SENDER, Line
from served import Served, serving

pytestmark = pytest.mark.e2e

RULES = Path(__file__).parents[2] / "deploy/prometheus/mailtape.rules.yml"
ALERTED = re.findall(
    r"(mailtape_\w+)(?:\{([^}]*)\})?",
    RULES.read_text().partition("- alert: MailtapeCannotDecide")[2].partition("for:")[0],
)
"""What that alert counts: metrics, and the label of each that has any."""
FIRST_LOCK, LOCKS = 120, 8
DUNNO = "action=DUNNO"
DEFERRED = "action=451 4.3.0 cannot tell at the moment, try again later"
UNKNOWN = "action=550 5.1.1 no such address here"


@contextmanager
def locked(rows: Path, seconds: float = 10) -> Iterator[None]:
    """Keep every reader and writer out until the context ends."""
    with rows.with_name(rows.name + "-shm").open("r+b") as index:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, LOCKS, FIRST_LOCK)
                break
            except OSError:  # somebody is reading
                assert time.monotonic() < deadline
        yield


def asked(served: Served, recipient: str) -> str:
    """Ask the policy daemon at RCPT; gives its answer."""
    host, _, port = served.policy.rpartition(":")
    request = f"protocol_state=RCPT\nrecipient={recipient}\ninstance={secrets.token_hex(4)}\n\n"
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request.encode())
        return connection.makefile().readline().strip()


def alerted(inbox: Inbox) -> float:
    """Add up what the alert counts."""
    samples = [line.split() for line in inbox.get("/metrics").text.splitlines()]
    return sum(
        float(value)
        for name, label in ALERTED
        for sample, *_, value in samples
        if sample.partition("{")[0] == name and label in sample
    )


@pytest.mark.parametrize(("choice", "answer"), [("defer", DEFERRED), ("accept", DUNNO)])
def test_what_nobody_can_decide_is_answered_as_the_operator_chose(
    choice: str, answer: str, tmp_path: Path
) -> None:
    settings = {"POLICY_WHEN_BLIND": choice, "CAPTURE_ORGANIZATION": ""}
    with (
        serving(tmp_path / "var", tmp_path / "log", **settings) as served,
        reading(served) as inbox,
        Line(served.smtp) as sender,
        Line(served.lmtp) as relay,
    ):
        made = inbox.client.post("/addresses", json={"local_part": "qa"})
        assert made.status_code == 201, made.text
        address = made.json()["address"]
        sender.hello()
        relay.reply()
        relay.say(b"LHLO relay.example.org")
        for line in (sender, relay):
            assert line.say(b"MAIL FROM:<%b>" % SENDER).startswith(b"250")

        assert asked(served, "nobody@example.net") == UNKNOWN
        with locked(served.folder / "mailtape.sqlite3"):
            assert asked(served, "nobody@example.net") == UNKNOWN, "what is known is no guess"
            begin = time.monotonic()
            assert asked(served, address) == answer
            assert time.monotonic() - begin < 2
            for line in (sender, relay):
                line.socket.sendall(b"RCPT TO:<%b>\r\n" % address.encode())
            assert [line.reply()[:9] for line in (sender, relay)] == [b"451 4.3.0"] * 2

        assert asked(served, "nobody-else@example.net") == UNKNOWN
        assert asked(served, address) == DUNNO
        blind = inbox.metric("mailtape_policy_accepted_blind_total")
        assert blind == (answer == DUNNO)
        assert served.log.read_text().count("policy.accepted_blind") == blind
        assert alerted(inbox) == 3, "the alert counts every door"
