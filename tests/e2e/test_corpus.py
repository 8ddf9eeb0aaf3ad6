"""Hostile and real mail through the whole of it: over the wire, into the queue, out of the API."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corpus.hostile import variants
from corpus.samples import samples
from inbox import Inbox, assert_sound, reading
from processes import peak_bytes
from senders import Line, numbered
from served import Served, serving

pytestmark = pytest.mark.e2e

SEED = 20_260_501
WORKER_BYTES = 300 * 2**20
STORED_WITHIN = 120.0
ORDINARY_WITHIN = 30.0
"""Seconds for an ordinary mail behind hostile ones: one deadline of a worker, who needs none."""
FEWEST_SAMPLES = 20
"""The standard library alone has more; fewer means that they are not where they were."""
LIMIT = 30 * 2**20
PATIENCE = 4


def corpus() -> Iterator[tuple[str, bytes]]:
    """Give all mails, each ended as DATA wants it."""
    for name, raw in (*variants(SEED), *samples()):
        yield name, raw if raw.endswith(b"\r\n") else raw + b"\r\n"


def test_there_is_real_mail_to_try() -> None:
    assert sum(1 for _ in samples()) >= FEWEST_SAMPLES


def test_all_of_the_corpus_comes_back_byte_for_byte_and_opens(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "var", tmp_path / "log") as served,
        reading(served) as inbox,
        Line(served.smtp) as line,
    ):
        line.hello()
        workers = served.children
        sent: dict[str, tuple[str, str]] = {}
        for number, (name, raw) in enumerate(corpus()):
            address = f"mail-{number}@example.net"
            reply = line.send(raw, address.encode())
            assert reply.startswith(b"250"), (name, reply)
            sent[address] = (name, hashlib.sha256(raw).hexdigest())
            if number % 20 == 0:
                _assert_an_ordinary_mail_gets_through(inbox, line, number)
        inbox.wait_until_stored(STORED_WITHIN)

        listed = {m["address"]: m for m in inbox.listed() if m["address"] in sent}
        assert listed.keys() == sent.keys()
        wrong = [
            (name, fault)
            for address, (name, digest) in sent.items()
            for fault in _faults(inbox, listed[address]["id"], digest)
        ]
        assert wrong == []
        assert served.children == workers, "no mail was too much for a worker"
        assert max(served.peak_bytes()) < WORKER_BYTES
        assert served.stop() == 0
    assert_sound(tmp_path / "var")


def test_identical_mails_in_transactions_of_their_own_stay_apart(tmp_path: Path) -> None:
    _, raw = next(numbered(1, prefix="identical"))
    with (
        serving(tmp_path / "var", tmp_path / "log") as served,
        reading(served) as inbox,
        Line(served.smtp) as line,
    ):
        line.hello()
        for _ in range(200):
            assert line.send(raw).startswith(b"250")
        inbox.wait_until_stored(30)

        assert inbox.subjects() == ["identical-0"] * 200
        assert len({message["id"] for message in inbox.listed()}) == 200


def test_a_line_of_ten_megabytes_is_just_a_message(tmp_path: Path) -> None:
    raw = b"Subject: one line\r\n\r\n" + b"x" * 10 * 2**20 + b"\r\n"
    with (
        serving(tmp_path / "var", tmp_path / "log") as served,
        reading(served) as inbox,
        Line(served.smtp) as line,
    ):
        line.hello()
        assert line.send(raw).startswith(b"250")
        inbox.wait_until_stored(30)

        (message,) = inbox.listed()
        assert inbox.raw(message["id"]) == raw
        assert message["size"] == len(raw)
        assert max(served.peak_bytes()) < WORKER_BYTES


def test_more_than_the_limit_is_refused_without_being_kept(tmp_path: Path) -> None:
    line_of_text = b"x" * 998 + b"\r\n"
    with serving(tmp_path / "var", tmp_path / "log") as served, reading(served) as inbox:
        before = peak_bytes(served.pid)
        with Line(served.smtp) as line:
            assert f"SIZE {LIMIT}".encode() in line.hello()
            declared = line.say(b"MAIL FROM:<a@example.org> SIZE=%d" % (LIMIT + 1))
            assert declared.startswith(b"552 5.3.4")

            assert line.begin().startswith(b"354")
            for _ in range(2 * LIMIT // 100_000):
                line.socket.sendall(line_of_text * 100)
            line.socket.sendall(b".\r\n")
            assert line.reply().startswith(b"552 5.3.4")
            assert line.send(next(numbered(1))[1]).startswith(b"250")
        assert _told_and_cut(served, line_of_text)
        inbox.wait_until_stored(30)

        assert inbox.subjects() == ["mail-0"]
        assert peak_bytes(served.pid) - before < 2 * LIMIT, "what is refused is not kept"


def _told_and_cut(served: Served, text: bytes) -> bool:
    """Send four times the limit without a dot; tell whether the refusal came, and the end."""
    with Line(served.smtp) as line:
        line.hello()
        assert line.begin().startswith(b"354")
        for _ in range(PATIENCE * LIMIT // len(text) // 100 + 1):
            line.socket.sendall(text * 100)
        return line.reply().startswith(b"552 5.3.4") and line.socket.recv(1) == b""


def _assert_an_ordinary_mail_gets_through(inbox: Inbox, line: Line, number: int) -> None:
    """Send one behind all the hostile ones and wait for it."""
    address = f"ordinary-{number}@example.net"
    _, raw = next(numbered(1, prefix=f"ordinary-{number}"))
    begin = time.monotonic()
    assert line.send(raw, address.encode()).startswith(b"250")
    response = inbox.get("/messages/wait", address=address, timeout=60)
    assert response.status_code == 200, f"{address} is not there after a minute"
    assert time.monotonic() - begin < ORDINARY_WITHIN


def _faults(inbox: Inbox, message_id: str, digest: str) -> Iterator[str]:
    """Open a message in every way there is, and tell what is not as it should be."""
    detail = inbox.get(f"/messages/{message_id}")
    if detail.status_code != 200:
        yield f"detail is {detail.status_code}"
        return
    opened = detail.json()
    if hashlib.sha256(inbox.raw(message_id)).hexdigest() != digest:
        yield "raw is not what was sent"
    has_text = opened["text"] is not None
    has_page = has_text or opened["html"] is not None
    for path, is_there in (
        (f"/messages/{message_id}/text", has_text),
        (f"/messages/{message_id}/html", has_page),
        (opened["view_url"], has_page),
    ):
        status = inbox.get(path).status_code
        if status != (200 if is_there else 404):
            yield f"{path} is {status}"
    for attachment in opened["attachments"]:
        path = f"/messages/{message_id}/attachments/{attachment['id']}"
        response = inbox.get(path)
        got = (len(response.content), hashlib.sha256(response.content).hexdigest())
        if response.status_code != 200:
            yield f"{path} is {response.status_code}"
        elif got != (attachment["size"], attachment["sha256"]):
            yield f"{path} is not what its size and sha256 say"
