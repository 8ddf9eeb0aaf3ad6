"""Mails a second that are accepted and that become visible, as ratios to `smtp-sink`."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.api import Api
from bench.counts import Counts
from bench.figures import Figure, at_least
from bench.mails import LARGE, SMALL
from bench.programs import Server, serving, sinking

SESSIONS = 10
WARM_UP = 500


@dataclass(frozen=True, slots=True)
class Round:
    """One leg each of the sink and the server, mails a second."""

    sink: float
    accepted: float
    visible: float


def measure(folder: Path, counts: Counts) -> Iterator[Figure]:
    """Both mails on one server, with workers running; ten sessions at once."""
    with serving(folder) as server, sinking() as sink_port:
        yield from _both_rates(
            "6 kB", SMALL, counts.small_mails, counts, server, sink_port, (0.13, 0.11)
        )
        yield from _both_rates(
            "34 kB", LARGE, counts.large_mails, counts, server, sink_port, (0.19, 0.16)
        )


def start_source(port: int, mail: Path, count: int) -> subprocess.Popen[bytes]:
    """Starts Postfix's `smtp-source`: ten sessions, kept connections, as fast as it is taken."""
    command = ["smtp-source", "-d", "-s", SESSIONS, "-m", count, "-F", mail]
    command += ["-f", "bench@example.org", "-t", "bench@example.net", f"127.0.0.1:{port}"]
    return subprocess.Popen([str(part) for part in command])


def finish(source: subprocess.Popen[bytes]) -> None:
    """Waits for `smtp-source` to have every mail acknowledged."""
    if source.wait(600) != 0:
        raise RuntimeError("smtp-source failed")


def _both_rates(
    size: str,
    mail: Path,
    count: int,
    counts: Counts,
    server: Server,
    sink_port: int,
    targets: tuple[float, float],
) -> Iterator[Figure]:
    api = Api(server)
    _leg(server.smtp_port, mail, WARM_UP, api)
    rounds = []
    for _ in range(counts.rounds):
        sink, _ = _leg(sink_port, mail, count)
        # The server's leg ends when all is visible: a backlog would slow the sink's next leg.
        accepted, visible = _leg(server.smtp_port, mail, count, api)
        rounds.append(Round(sink, accepted, visible))
    sink = median(each.sink for each in rounds)
    for name, rate, target in (
        ("accepted", median(each.accepted for each in rounds), targets[0]),
        ("visible", median(each.visible for each in rounds), targets[1]),
    ):
        how = f"{rate:,.0f}/s of {sink:,.0f}/s; median of rounds of {count:,}: {counts.rounds}"
        yield Figure(f"{name}, {size}", rate / sink, "ratio", at_least(target), how)


def _leg(port: int, mail: Path, count: int, api: Api | None = None) -> tuple[float, float]:
    """Mails a second until the last acknowledgement, and until the API counts them all."""
    before = api.count() if api else 0
    begin = time.monotonic()
    finish(start_source(port, mail, count))
    accepted = time.monotonic()
    if api:
        api.wait_for(before + count)
    visible = time.monotonic()
    return count / (accepted - begin), count / (visible - begin)
