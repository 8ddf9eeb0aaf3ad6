"""Clients that hold connections and say next to nothing cost others neither time nor memory."""

import resource
import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from inbox import reading
from senders import Line, numbered
from served import serving

pytestmark = pytest.mark.e2e

IDLE = 2_000
SLOW = 200
FILES = IDLE + SLOW + 500
"""File descriptors that both the test and the server need."""
MAILS = 200
MEGABYTE = 2**20


def test_two_thousand_idle_and_two_hundred_slow_clients_are_in_nobodys_way(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    with (
        # What many systems give a program that does not ask for more.
        _open_files(1024),
        serving(tmp_path / "var", tmp_path / "log", SMTP_MAX_CONNECTIONS="3000") as served,
        _open_files(FILES),
        reading(served) as inbox,
        ExitStack() as held,
    ):
        before = served.resident_bytes()
        for _ in range(IDLE):
            held.enter_context(Line(served.smtp)).reply()
        slow = [held.enter_context(Line(served.smtp)) for _ in range(SLOW)]
        for line in slow:
            line.hello()
            assert line.begin().startswith(b"354")
        grown = served.resident_bytes() - before

        with _dripping([line.socket for line in slow]), Line(served.smtp) as line:
            line.hello()
            took = []
            for _, raw in numbered(MAILS):
                begin = time.monotonic()
                assert line.send(raw).startswith(b"250")
                took.append(time.monotonic() - begin)
        inbox.wait_until_stored(30)
        worst = statistics.quantiles(took, n=100)[-1]
        tell(f"p99 of {MAILS} mails {worst * 1000:.0f} ms, {grown / MEGABYTE:.0f} MB grown")

        assert worst < 2.0
        assert grown < 200 * MEGABYTE
        assert inbox.count() == MAILS
        for line in slow:  # they were slow, and are served all the same
            line.socket.sendall(b"\r\n.\r\n")
        assert all(line.reply().startswith(b"250") for line in slow)
        assert served.resident_bytes() - before < 200 * MEGABYTE


def test_who_says_nothing_is_sent_away_in_time(tmp_path: Path) -> None:
    settings = {"SMTP_COMMAND_TIMEOUT_SECONDS": "1", "SMTP_DATA_TIMEOUT_SECONDS": "2"}
    with (
        serving(tmp_path / "var", tmp_path / "log", **settings) as served,
        Line(served.smtp) as idle,
        Line(served.smtp) as slow,
    ):
        slow.hello()
        assert slow.begin().startswith(b"354")
        with _dripping([slow.socket]):
            assert idle.hello()[:3] == b"250"
            assert idle.reply().startswith(b"421 4.4.2")
            assert slow.reply().startswith(b"421 4.4.2"), "a drop now and then is no progress"


def test_half_requests_are_sent_away_in_time_and_keep_no_mail_out(tmp_path: Path) -> None:
    settings = {"HTTP_REQUEST_TIMEOUT_SECONDS": "1", "HTTP_MAX_CONNECTIONS": "100"}
    body = b"POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"
    with serving(tmp_path / "var", tmp_path / "log", **settings) as served, ExitStack() as held:
        half = []
        for number in range(150):
            half.append(held.enter_context(socket.create_connection(served.http_address)))
            half[-1].sendall(b"GET / HTTP/1.1\r\n" if number % 2 else body)
            half[-1].settimeout(10)

        with Line(served.smtp) as line:
            assert line.hello()[:3] == b"250"
            assert line.begin().startswith(b"354")
            line.socket.sendall(b"Subject: a\r\n\r\nb\r\n.\r\n")
            assert line.reply().startswith(b"250")

        statuses = [_status(each) for each in half]
        assert set(statuses[:100]) == {b"408"}
        assert set(statuses[100:]) == {b"503"}
        with urllib.request.urlopen(served.http + "/health", timeout=10) as answer:
            assert answer.status == 200
        assert "http.too_many_connections" in served.log.read_text()


def _status(connection: socket.socket) -> bytes:
    """Read to the end of the connection; gives the status of the answer, if there was one."""
    try:
        said = b"".join(iter(lambda: connection.recv(4096), b""))
    except ConnectionResetError:
        return b""
    return said[9:12]


@contextmanager
def _open_files(most: int) -> Iterator[None]:
    """Let this process, and what it starts, open so many files unless they ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= FILES, f"needs `ulimit -Hn` of {FILES}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def _dripping(sockets: list[socket.socket]) -> Iterator[None]:
    """Send a byte on every connection now and then, for as long as the context lasts."""
    enough = threading.Event()

    def drip() -> None:
        while not enough.wait(0.25):
            for each in sockets:
                try:
                    each.sendall(b"x")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
