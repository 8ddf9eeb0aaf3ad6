"""What a reader sees of an installation by its API, with the token of the first start."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from served import Served, run


class Inbox:
    """The messages of organisation `local`."""

    def __init__(self, http: str, token: str) -> None:
        self.token = token
        self.client = httpx.Client(
            base_url=http,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            trust_env=False,
        )

    def get(self, path: str, **query: str | int) -> httpx.Response:
        """Ask; the answer is the caller's to judge."""
        return self.client.get(path, params=query)

    def count(self, **query: str | int) -> int:
        """Count the messages that match."""
        response = self.get("/messages/count", **query)
        assert response.status_code == 200, response.text
        return int(response.json()["count"])

    def listed(self) -> Iterator[dict[str, Any]]:
        """Walk through all messages, newest first."""
        cursor: dict[str, str | int] = {}
        while True:
            response = self.get("/messages", limit=200, **cursor)
            assert response.status_code == 200, response.text
            page = response.json()
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def subjects(self) -> list[str]:
        """List the subjects of all messages."""
        return [message["subject"] for message in self.listed()]

    def raw(self, message_id: str) -> bytes:
        """Fetch the bytes of a message."""
        response = self.get(f"/messages/{message_id}/raw")
        assert response.status_code == 200, response.text
        return response.content

    def wait_for(self, count: int, seconds: float, **query: str | int) -> int:
        """Wait until at least so many messages match; gives how many do in the end."""
        deadline = time.monotonic() + seconds
        while (there := self.count(**query)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        return there

    def wait_until_stored(self, seconds: float) -> None:
        """Wait until the queue is empty: everything that was accepted is visible."""
        deadline = time.monotonic() + seconds
        while queued := self.queued():
            assert time.monotonic() < deadline, f"{queued} mails were not stored within {seconds} s"
            time.sleep(0.02)

    def queued(self) -> int:
        """Tell how many mails wait in the queue, are being worked on, or are set aside."""
        return int(self.metric("mailtape_queue_depth"))

    def metric(self, name: str) -> float:
        """Read a metric, summed over its labels."""
        lines = [line.split() for line in self.get("/metrics").text.splitlines()]
        values = [float(line[-1]) for line in lines if line[0].partition("{")[0] == name]
        assert values, f"{name} is a metric"
        return sum(values)


@contextlib.contextmanager
def reading(served: Served) -> Iterator[Inbox]:
    """Read as the owner of the first start's token; a restart of the server does no harm."""
    inbox = Inbox(served.http, served.token)
    with inbox.client:
        yield inbox


def assert_sound(folder: Path) -> None:
    """Have a stopped folder verified, and find its queue empty."""
    verified = run("verifydata", "--data", folder, cwd=folder.parent)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    with contextlib.closing(sqlite3.connect(folder / "queue.sqlite3")) as queue:
        assert queue.execute("SELECT count(*) FROM mail").fetchone() == (0,)
