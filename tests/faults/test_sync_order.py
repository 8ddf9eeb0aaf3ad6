"""What the kernel was asked to do, and when: 250 comes after the sync, forgetting after storing.

That the mail survives a kill of the process says little: the kernel keeps what was written. Only
the order of the calls shows that it would survive a power failure. The same test must fail when
a library takes the syncs away, or it could not fail at all.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

from faults.tracing import READS, SYNCS, WRITES, Begin, End, events, tracing
from inbox import reading
from senders import Line, numbered
from served import serving

pytestmark = [pytest.mark.e2e, pytest.mark.services]

LOGS = {
    "queue.sqlite3-wal": "queue",
    "bodies.sqlite3-wal": "bodies",
    "mailtape.sqlite3-wal": "rows",
}
RIGHT = [
    "the final dot",
    "write queue",
    "sync queue",
    "250 Message accepted",
    "write bodies",
    "sync bodies",
    "write rows",
    "sync rows",
    "write queue",
    "sync queue",
]


def test_250_comes_after_the_sync_and_the_queue_forgets_after_all_else_is_synced(
    tmp_path: Path,
) -> None:
    names = _trace_mails(tmp_path, 100)

    orders = _orders(names, events(tmp_path / "trace"))

    assert {name: order for name, order in orders.items() if order != RIGHT} == {}
    assert len(orders) == 100


def test_the_check_fails_when_nothing_is_synced(tmp_path: Path) -> None:
    library = next(Path("/").glob("usr/lib*/**/libeatmydata.so"))
    names = _trace_mails(tmp_path, 5, LD_PRELOAD=str(library))

    orders = _orders(names, events(tmp_path / "trace"))

    without_syncs = [step for step in RIGHT if not step.startswith("sync")]
    assert list(orders.values()) == [without_syncs] * 5


def _trace_mails(folder: Path, count: int, **settings: str) -> list[str]:
    """Send mails one by one, each after the last is stored and out of the queue; gives names."""
    names = []
    with (
        serving(folder / "var", folder / "log", **settings) as served,
        reading(served) as inbox,
        tracing(folder / "trace", served.pid),
        Line(served.smtp) as line,
    ):
        line.hello()
        for name, raw in numbered(count, size=500, prefix="traced"):
            assert line.send(raw).startswith(b"250")
            inbox.wait_until_stored(30)
            names.append(name)
    return names


def _orders(names: list[str], trace: Iterable[Begin | End]) -> dict[str, list[str]]:
    """Tell for each mail, in what order what is about it happened.

    A write counts when it begins, a sync when it is over and nothing was written to the file
    meanwhile. Writes to one file that follow each other, each synced or not, are one step.
    """
    orders: dict[str, list[str]] = {}
    order: list[str] = []
    shown: dict[str, set[str]] = {name: set() for name in names}
    since_sync_began: dict[str, bool] = {}
    coming = iter(names)
    name = next(coming)
    for event in trace:
        file = LOGS.get(Path(event.file).name)
        match event:
            case End() if event.call in READS and rf"Subject: {name}\r" in event.text:
                assert r"\r\n.\r\n" in event.text, "the mail comes in one piece"
                order = orders[name] = ["the final dot"]
                current, name = name, next(coming, "no more")
            case _ if not order:
                continue
            case Begin() if event.call in WRITES and file:
                since_sync_began[file] = False
                if f"Subject: {current}" in event.text or f"{current} thanks you" in event.text:
                    shown[current].add(file)
                if order[-1] == f"sync {file}":
                    order.pop()
                if order[-1] != f"write {file}":
                    order.append(f"write {file}")
            case Begin() if event.call in SYNCS and file:
                since_sync_began[file] = True
            case End() if event.call in SYNCS and file and since_sync_began[file]:
                if order[-1] != f"sync {file}":
                    order.append(f"sync {file}")
            case Begin() if event.call in WRITES and '"250 2.0.0 Message' in event.text:
                order.append("250 Message accepted")
            case _:
                continue
    for sent, files in shown.items():
        assert files >= {"queue", "rows"}, f"the bytes of {sent} were seen on their way to {files}"
    return orders
