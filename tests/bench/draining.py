"""What a burst does: changing a message while it drains, and memory before and after it."""

import time
from collections.abc import Iterator
from pathlib import Path

from bench.api import Api
from bench.counts import Counts
from bench.figures import Figure, at_most, judged_by
from bench.mails import SMALL
from bench.programs import Server, serving
from bench.throughput import finish, start_source

PACE = 50
"""Changes a second."""
KNOWN = 100
"""Messages that are there before the burst, to be changed during it."""


def measure(folder: Path, counts: Counts) -> Iterator[Figure]:
    """A burst over ten sessions, read and unread marks meanwhile."""
    with serving(folder) as server:
        Api(server).count()
        idle = server.resident_bytes()

        finish(start_source(server.smtp_port, SMALL, KNOWN))
        Api(server).wait_for(KNOWN)
        times = _change_while_draining(server, counts.drained_messages)
        after = server.resident_bytes()

    how = f"while {counts.drained_messages:,} drain, {PACE}/s"
    yield judged_by("PATCH /messages/{id}", 0.99, times, at_most(50.0), how)
    how = "sum of VmRSS over the process tree"
    yield Figure("memory, idle", idle / 1e6, "MB", at_most(300.0), how)
    yield Figure(
        f"memory, after {counts.drained_messages:,}", after / 1e6, "MB", at_most(400.0), how
    )


def _change_while_draining(server: Server, burst: int) -> list[float]:
    api = Api(server)
    known = [item["id"] for item in api.get(f"/messages?limit={KNOWN}")["items"]]
    source = start_source(server.smtp_port, SMALL, burst)
    times: list[float] = []
    begin = time.monotonic()
    while len(times) % PACE or api.count() < KNOWN + burst:  # asks for the count once a second
        due = begin + len(times) / PACE
        time.sleep(max(0.0, due - time.monotonic()))
        mark = {"read": len(times) % 2 == 0}
        api.call("PATCH", f"/messages/{known[len(times) % KNOWN]}", mark)
        times.append(time.monotonic() - due)
    finish(source)
    return times
