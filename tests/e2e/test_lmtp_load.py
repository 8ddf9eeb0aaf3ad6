"""Postfix's own LMTP client under load: it waits for each reply, and hangs when one is missing."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from inbox import assert_sound, reading
from served import serving

pytestmark = [pytest.mark.services, pytest.mark.e2e]

MAILS = 200
RECIPIENTS = 50
"""Of each mail; smtp-source makes a local part of its own for each."""
SENT_WITHIN = 120
STORED_WITHIN = 240


def test_every_recipient_of_every_mail_becomes_a_message_that_counts(tmp_path: Path) -> None:
    with serving(tmp_path / "var", tmp_path / "log") as served, reading(served) as inbox:
        command = ["smtp-source", "-L", "-s", "10", "-r", str(RECIPIENTS), "-m", str(MAILS)]
        command += ["-f", "shop@example.org", "-t", "qa@mail.example.com", served.lmtp]
        subprocess.run(command, timeout=SENT_WITHIN, check=True)
        inbox.wait_until_stored(STORED_WITHIN)

        assert inbox.count() == MAILS * RECIPIENTS == 10_000
        assert inbox.get("/usage").json()["emails"]["used"] == 10_000
        told = Counter(message["address"] for message in inbox.listed())
        assert list(told.values()) == [MAILS] * RECIPIENTS, told
        assert served.stop() == 0
    assert_sound(tmp_path / "var")
