"""What systemd is told on its socket (sd_notify(3)): ready when it serves, stopping at the end."""

import signal
import smtplib
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from served import START_SECONDS, Served

pytestmark = pytest.mark.e2e


@pytest.fixture(params=["path", "abstract"])
def listening(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, socket.socket]]:
    """A socket as systemd's, and its name as a process is given it."""
    name = str(tmp_path / "notify")
    if request.param == "abstract":
        name = f"@mailtape-{tmp_path.name}-{tmp_path.parent.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        bound.settimeout(START_SECONDS)
        yield name, bound


def test_ready_is_told_when_all_is_served_and_stopping_when_it_ends(
    listening: tuple[str, socket.socket], tmp_path: Path
) -> None:
    name, bound = listening
    served = Served(tmp_path / "var", tmp_path / "log", {"NOTIFY_SOCKET": name})
    served.launch()
    try:
        assert bound.recv(1000) == b"READY=1"
        with urllib.request.urlopen(f"{served.http}/health", timeout=5) as answer:
            assert answer.status == 200
        with smtplib.SMTP("127.0.0.1", served.smtp_port, timeout=5) as wire:
            assert wire.noop()[0] == 250
        served.process.send_signal(signal.SIGTERM)
        assert bound.recv(1000) == b"STOPPING=1"
        assert served.process.wait(START_SECONDS) == 0
    finally:
        served.close()
