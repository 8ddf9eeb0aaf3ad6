"""README's lines, pasted as a newcomer pastes them, so that they can never be wrong."""

import contextlib
import json
import re
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from inbox import Inbox, reading
from served import DEFAULT_PORTS, Served, environment, serving

pytestmark = [pytest.mark.e2e, pytest.mark.services]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SUBJECT = "Your order 1042"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Started by README's first line when its ports are free, otherwise on others."""
    with serving(
        tmp_path / "var", tmp_path / "log", as_printed=all(map(_is_free, DEFAULT_PORTS))
    ) as started:
        yield started


@pytest.fixture
def inbox(served: Served) -> Iterator[Inbox]:
    with reading(served) as opened:
        yield opened


def test_the_first_line_starts_the_whole_platform() -> None:
    first, *_ = _blocks()
    made = subprocess.run(
        ["make", "--dry-run", "run"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert first == "make run\n"
    assert made.stdout.splitlines()[-1].endswith("mailtape serve")


def test_readme_works_as_printed(served: Served, tmp_path: Path) -> None:
    _, send, wait, read, follow = _blocks()

    shown = _paste([send, wait, read, follow], served, tmp_path)

    assert shown[0] == ""
    assert json.loads(shown[1])["subject"] == SUBJECT
    listed, searched, detail, raw = _documents(shown[2])
    assert [item["subject"] for item in listed["items"]] == [SUBJECT]
    assert searched["items"] == listed["items"]
    assert detail["subject"] == SUBJECT
    assert detail["text"].strip() == "Thank you, Ann. It is on its way."
    assert f"\r\nSubject: {SUBJECT}\r\n" in raw
    assert "event: message.stored\n" in shown[3]
    assert SUBJECT in shown[3]


def test_an_application_with_starttls_and_made_up_credentials_gets_through(
    served: Served, inbox: Inbox
) -> None:
    host, _, port = served.smtp.rpartition(":")
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # the certificate is of our own making
    with smtplib.SMTP(host, int(port)) as application:
        application.starttls(context=unverified)
        application.login("user", "any password at all")
        application.sendmail("shop@example.org", ["bob@example.com"], "Subject: hello\n\nBob\n")

    found = inbox.get("/messages/wait", address="bob@example.com", timeout=30)

    assert found.json()["subject"] == "hello"
    assert inbox.get(f"/messages/{found.json()['id']}").json()["envelope"]["tls"]


def test_the_documents_of_the_api_are_where_readme_says(served: Served, inbox: Inbox) -> None:
    linked = re.findall(r"<http://127\.0\.0\.1:8025(/[^>]*)>", (ROOT / "README.md").read_text())

    assert linked
    for path in linked:
        assert inbox.get(path).status_code == 200, path


def _blocks() -> list[str]:
    return BLOCK.findall((ROOT / "README.md").read_text())


def _paste(blocks: list[str], served: Served, folder: Path) -> list[str]:
    """Paste blocks into one shell; gives what each of them printed."""
    mark = "----- the next block -----"
    script = f"\necho; echo '{mark}'\n".join(blocks)
    smtp, http, *_ = DEFAULT_PORTS
    script = script.replace(f"127.0.0.1:{smtp}", served.smtp)
    script = script.replace(f"http://127.0.0.1:{http}", served.http)
    pasted = subprocess.run(
        ["bash", "-u"],
        input=script.encode(),
        cwd=folder,
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    complaints = [
        line
        for line in pasted.stderr.decode().splitlines()
        if "Operation timed out" not in line  # how `curl --max-time` ends a stream
    ]
    assert complaints == []
    return pasted.stdout.decode().split(f"\n{mark}\n")


def _documents(text: str) -> Iterator[dict]:
    """Take JSON documents that were printed one after the other, and the text behind them."""
    decoder = json.JSONDecoder()
    while text.startswith("{"):
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].lstrip("\n")
    yield text


def _is_free(port: int) -> bool:
    with socket.socket() as tried, contextlib.suppress(OSError):
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(("127.0.0.1", port))
        return True
    return False
