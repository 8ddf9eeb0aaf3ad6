"""The disk fills up: senders are told to wait, readers read on, and afterwards all goes on."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.small_disk import small_disk
from inbox import Inbox, assert_sound, reading
from senders import Account, Line, compare, numbered
from served import serving

pytestmark = [pytest.mark.e2e, pytest.mark.services]

MEGABYTES = 24
MAIL_BYTES = 40_000
BACK_WITHIN = 20.0
"""Seconds from free space to business as usual."""


def test_senders_hear_452_and_nothing_needs_a_restart(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    account = Account()
    mails = numbered(10_000, size=MAIL_BYTES)
    with (
        small_disk(tmp_path / "disk", MEGABYTES) as disk,
        serving(disk.path / "var", tmp_path / "log") as served,
        reading(served) as inbox,
        Line(served.smtp) as line,
    ):
        line.hello()

        def send(count: int) -> Counter[bytes]:
            heard: Counter[bytes] = Counter()
            for _ in range(count):
                name, raw = next(mails)
                account.attempted.add(name)
                reply = line.send(raw)
                heard[reply[:9]] += 1
                if reply.startswith(b"250"):
                    account.acknowledged.add(name)
            return heard

        assert send(20) == {b"250 2.0.0": 20}
        inbox.wait_until_stored(30)
        disk.fill()
        # The logs of SQLite may have room of their own for some.
        heard = send(100)
        tell(dict(heard))
        assert set(heard) <= {b"250 2.0.0", b"452 4.3.1"}
        assert heard[b"452 4.3.1"] >= 50
        assert set(send(5)) == {b"452 4.3.1"}
        _assert_readable(inbox, at_least=20)

        disk.free()
        freed = time.monotonic()
        while not line.send(next(numbered(1, prefix="probe"))[1]).startswith(b"250"):
            assert time.monotonic() < freed + BACK_WITHIN, "still full"
            time.sleep(0.1)
        account.ambiguous.add("probe-0")
        assert send(20) == {b"250 2.0.0": 20}
        inbox.wait_until_stored(BACK_WITHIN)

        record = compare(account, inbox.subjects())
        tell(record)
        assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
        assert served.stop() == 0
        assert_sound(served.folder)


def test_mail_that_waits_in_the_queue_is_stored_once_there_is_room(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    account = Account()
    with (
        small_disk(tmp_path / "disk", MEGABYTES) as disk,
        serving(disk.path / "var", tmp_path / "log") as served,
        reading(served) as inbox,
        Line(served.smtp) as line,
    ):
        line.hello()
        for child in served.children:
            os.kill(child, signal.SIGSTOP)
        for name, raw in numbered(100, size=MAIL_BYTES):
            account.attempted.add(name)
            assert line.send(raw).startswith(b"250")
            account.acknowledged.add(name)
        disk.fill()
        for child in served.children:
            os.kill(child, signal.SIGCONT)
        _wait_for_words(served.log, "batch.released")
        assert inbox.queued() > 0
        assert line.say(b"RSET").startswith(b"250")
        assert inbox.get("/messages").status_code == 200

        disk.free()
        inbox.wait_until_stored(BACK_WITHIN)

        record = compare(account, inbox.subjects())
        tell(record)
        assert (record.visible, record.lost, record.dup, record.unexpected) == (100, 0, 0, 0)
        assert served.stop() == 0
        assert_sound(served.folder)


def _assert_readable(inbox: Inbox, *, at_least: int) -> None:
    listed = list(inbox.listed())
    assert len(listed) >= at_least
    for message in listed[:5]:
        for part in ("", "/raw", "/html", "/text"):
            assert inbox.get(f"/messages/{message['id']}{part}").status_code == 200


def _wait_for_words(log: Path, words: str) -> None:
    deadline = time.monotonic() + 30
    while words not in log.read_text():
        assert time.monotonic() < deadline, f"{words} does not appear"
        time.sleep(0.02)
