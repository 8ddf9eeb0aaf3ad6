"""SIGTERM under load: what is under way is finished, everybody is told, nothing is lost."""

import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from inbox import assert_sound, reading
from processes import free_ports
from senders import Line, Senders, compare, numbered, stuffed
from served import Served, run, serving

pytestmark = pytest.mark.e2e

PER_SECOND = 200
SHUTTING_DOWN = b"421 4.3.2"


def test_sigterm_under_load_loses_nothing_and_tells_everybody(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    with serving(tmp_path / "var", tmp_path / "log") as served, reading(served) as inbox:
        senders = Senders(served.smtp, numbered(100_000), per_second=PER_SECOND)
        senders.start()
        senders.wait_for(PER_SECOND)
        name, raw = next(numbered(1, prefix="half"))
        waiting = Asking(served, "/messages/wait?address=nobody@example.net&timeout=60")
        following = Asking(served, "/events")
        with Line(served.smtp) as idle, Line(served.smtp) as busy:
            idle.hello()
            busy.hello()
            assert busy.begin().startswith(b"354")
            on_the_wire = stuffed(raw)
            busy.socket.sendall(on_the_wire[:700])
            while inbox.metric("mailtape_http_streams") < 2:
                time.sleep(0.01)

            asked = time.monotonic()
            served.ask_to_stop()
            assert idle.reply().startswith(SHUTTING_DOWN)
            _assert_refuses_connections(served)
            busy.socket.sendall(on_the_wire[700:])
            assert busy.reply().startswith(b"250 2.0.0")
            assert busy.reply().startswith(SHUTTING_DOWN)
            code = served.process.wait(30)
            took = time.monotonic() - asked

        assert code == 0
        assert took < 30
        assert waiting.ended() == 204
        assert following.ended() == 200
        senders.enough()
        account = senders.join(30)
        account.attempted.add(name)
        account.acknowledged.add(name)
        assert account.ambiguous == set(), "a mail was left between its dot and its reply"
        assert {reply[:9] for reply in account.refusals} <= {SHUTTING_DOWN}

        served.close()
        served.start()
        inbox.wait_until_stored(60)
        record = compare(account, inbox.subjects())
        tell(record, f"drained in {took:.1f} s")
        assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
        assert served.stop() == 0
    assert_sound(tmp_path / "var")


def test_what_hangs_is_waited_for_once_and_not_one_after_the_other(tmp_path: Path) -> None:
    patience, patience_with_workers = 6, 3
    settings = {"DRAIN_TIMEOUT_SECONDS": str(patience)}
    with (
        serving(tmp_path / "var", tmp_path / "log", **settings) as served,
        reading(served) as inbox,
        Line(served.smtp) as sender,
        socket.create_connection(served.http_address) as uploader,
    ):
        sender.hello()
        assert sender.begin().startswith(b"354")
        sender.socket.sendall(b"Subject: never to be finished\r\n")
        uploader.sendall(
            b"POST /ingest?recipient=qa@example.net HTTP/1.1\r\nHost: mailtape\r\n"
            b"Authorization: Bearer %b\r\nContent-Type: message/rfc822\r\n"
            b"Content-Length: 1000\r\n\r\nSubject: nor this\r\n" % served.token.encode()
        )
        for child in served.children:
            os.kill(child, signal.SIGSTOP)
        with Line(served.smtp) as line:
            line.hello()
            assert line.send(b"Subject: in a worker's hands\r\n\r\n").startswith(b"250")
        assert inbox.get("/health").status_code == 200

        asked = time.monotonic()
        assert served.stop() == 0
        took = time.monotonic() - asked

        assert patience - 1 < took < patience + patience_with_workers + 4

        served.close()
        served.start()
        inbox.wait_until_stored(30)
        assert inbox.subjects() == ["in a worker's hands"]


def test_clients_stuck_within_their_mails_at_two_doors_are_waited_for_once(tmp_path: Path) -> None:
    patience = 6
    settings = {"DRAIN_TIMEOUT_SECONDS": str(patience)}
    with (
        serving(tmp_path / "var", tmp_path / "log", **settings) as served,
        Line(served.smtp) as by_smtp,
        Line(served.lmtp) as by_lmtp,
    ):
        by_smtp.hello()
        by_lmtp.reply()
        by_lmtp.say(b"LHLO relay.example.org")
        for stuck in (by_smtp, by_lmtp):
            assert stuck.begin().startswith(b"354")
            stuck.socket.sendall(b"Subject: never to be finished\r\n")

        asked = time.monotonic()
        assert served.stop() == 0
        took = time.monotonic() - asked

    assert patience - 1 < took < 2 * patience - 1, "one after the other would be twice as long"


def test_what_was_refused_in_the_last_minute_is_told_of_by_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path / "var", tmp_path / "log") as served, reading(served) as inbox:
        limits = '{"messages_per_minute": 0}'
        with closing(sqlite3.connect(served.folder / "mailtape.sqlite3")) as rows, rows:
            rows.execute("UPDATE tiers SET limits = ? WHERE name = 'unlimited'", (limits,))
        with Line(served.smtp) as sender:
            sender.hello()
            for _ in range(3):
                assert sender.begin().startswith(b"450 4.2.1")
                sender.say(b"RSET")
        assert served.stop() == 0
        served.close()
        served.start()

        with inbox.client.stream("GET", "/events", headers={"Last-Event-ID": "0"}) as events:
            deadline = time.monotonic() + 10
            for line in events.iter_lines():  # a silent stream says now and then that it lives
                assert time.monotonic() < deadline, "nothing is told"
                if line.startswith("data:"):
                    break
        told = json.loads(line.removeprefix("data:"))

    assert told["refused"]["count"] == 3, told


def test_sigint_is_sigterm(tmp_path: Path) -> None:
    with serving(tmp_path / "var", tmp_path / "log") as served:
        served.process.send_signal(signal.SIGINT)

        assert served.process.wait(30) == 0


@pytest.mark.parametrize("listener", ["--http", "--smtp"])
def test_a_taken_port_ends_the_start_with_a_sentence(listener: str, tmp_path: Path) -> None:
    free = dict(zip(("--http", "--smtp"), free_ports(2), strict=True))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free[listener] = port = taken.getsockname()[1]
        addresses = [part for flag, port in free.items() for part in (flag, f"127.0.0.1:{port}")]

        ended = run("serve", "--data", tmp_path / "var", *addresses, cwd=tmp_path)

    assert ended.returncode not in {0, -signal.SIGKILL}
    assert "Traceback" not in ended.stderr
    assert "ready" not in ended.stdout
    said = ended.stderr.strip().splitlines()[-1]
    assert "in use" in said, ended.stderr
    assert str(port) in said, ended.stderr


class Asking:
    """A request that stays open, in a thread of its own."""

    def __init__(self, served: Served, path: str) -> None:
        self._url = served.http + path
        self._token = served.token
        self._outcome: int | Exception | None = None
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def ended(self) -> int:
        """Give the status once the answer has come to a proper end."""
        self._thread.join(10)
        assert not self._thread.is_alive(), "it never ends"
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _ask(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        with httpx.Client(headers=headers, trust_env=False, timeout=60) as client:
            try:
                response = client.get(self._url)  # raises when the end is missing
            except httpx.HTTPError as error:
                self._outcome = error
            else:
                self._outcome = response.status_code


def _assert_refuses_connections(served: Served) -> None:
    try:
        with Line(served.smtp, seconds=5) as late:
            assert late.reply().startswith(SHUTTING_DOWN)
    except OSError:
        return
