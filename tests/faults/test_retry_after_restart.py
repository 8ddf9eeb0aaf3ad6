"""A relay that did not hear our reply comes again, and meanwhile we were killed.

Nothing of what the counters remember in memory survives that. What they read instead when they
begin must tell a retry from a new mail: an organisation at its limit takes the one and not the
other.
"""

import json
import os
import secrets
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from inbox import Inbox, assert_sound
from senders import Line, stuffed
from served import Served, run, serving

pytestmark = pytest.mark.e2e

MAILS_AT_MOST = 3
MAIL = b"From: shop@example.org\r\nSubject: Your order %b\r\n\r\nThank you for it.\r\n"
KEPT = b"250 2.0.0 Message accepted\r\n"
USED_UP = b"452 4.2.2 monthly messages are used up\r\n"
STORED_WITHIN = 60


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server where a new organisation may have three mails a month."""
    prepared = run("migrate", "--data", tmp_path / "var", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    limits = json.dumps({"emails_per_month": MAILS_AT_MOST})
    with closing(sqlite3.connect(tmp_path / "var" / "mailtape.sqlite3")) as rows, rows:
        rows.execute("UPDATE tiers SET limits = ? WHERE name = 'free'", (limits,))
    with serving(tmp_path / "var", tmp_path / "log", CAPTURE_ORGANIZATION="") as started:
        yield started


@pytest.fixture
def owner(served: Served) -> Iterator[Inbox]:
    body = {
        "email": "boss@example.org",
        "password": secrets.token_hex(20),
        "organization": "acme",
        "cookie": False,
    }
    made = httpx.post(served.http + "/auth/register", json=body, timeout=30, trust_env=False)
    assert made.status_code == 201, made.text
    inbox = Inbox(served.http, made.json()["access_token"])
    with inbox.client:
        yield inbox


@pytest.fixture
def address(owner: Inbox) -> str:
    made = owner.client.post("/addresses", json={"local_part": "qa"})
    assert made.status_code == 201, made.text
    return str(made.json()["address"])


def hand_over(served: Served, address: str, queue_id: str) -> bytes:
    """Hand a mail over as Postfix does; gives the last reply."""
    with Line(served.lmtp) as line:
        assert line.reply().startswith(b"220")
        for command in (b"LHLO relay", b"XFORWARD IDENT=%b" % queue_id.encode(), b"MAIL FROM:<>"):
            assert line.say(command).startswith(b"250")
        told = line.say(b"RCPT TO:<%b>" % address.encode())
        if not told.startswith(b"250"):
            return told
        assert line.say(b"DATA").startswith(b"354")
        line.socket.sendall(stuffed(MAIL % queue_id.encode()))
        return line.reply()


def once_all_is_stored(served: Served, inbox: Inbox) -> Iterator[None]:
    """Have all that was accepted become messages before the server is killed."""
    yield
    inbox.wait_until_stored(STORED_WITHIN)
    served.kill()


def while_all_of_it_waits(served: Served, _: Inbox) -> Iterator[None]:
    """Have the server killed with all that was accepted still in its queue."""
    workers = served.children
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    yield
    served.process.kill()
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    served.kill()


@pytest.mark.parametrize("killed", [once_all_is_stored, while_all_of_it_waits])
def test_what_was_accepted_before_a_kill_is_taken_again_and_counts_once(
    killed: Callable[[Served, Inbox], Iterator[None]],
    served: Served,
    owner: Inbox,
    address: str,
) -> None:
    killing = killed(served, owner)
    next(killing)
    assert [hand_over(served, address, name) for name in ("4A1", "4A2")] == [KEPT] * 2
    next(killing, None)
    served.start()

    # Neither retry may take the room that is left for one more mail.
    assert [hand_over(served, address, name) for name in ("4A1", "4A2", "4A3")] == [KEPT] * 3
    assert hand_over(served, address, "4A4") == USED_UP
    assert [hand_over(served, address, name) for name in ("4A2", "4A1")] == [KEPT] * 2

    # Now it is full, and what comes again is known by nothing but the rows.
    owner.wait_until_stored(STORED_WITHIN)
    served.kill()
    served.start()
    assert [hand_over(served, address, name) for name in ("4A3", "4A1")] == [KEPT] * 2
    assert hand_over(served, address, "4A4") == USED_UP

    owner.wait_until_stored(STORED_WITHIN)
    assert owner.get("/usage").json()["emails"]["used"] == MAILS_AT_MOST
    assert owner.count() == MAILS_AT_MOST
    assert sorted(owner.subjects()) == [f"Your order {name}" for name in ("4A1", "4A2", "4A3")]
    assert served.stop() == 0
    assert_sound(served.folder)
