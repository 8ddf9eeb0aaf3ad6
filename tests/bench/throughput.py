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
from bench.production import Fleet, fleet
from bench.programs import Server, serving, sinking
from bench.waiting import wait_for

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


def measure_lmtp(folder: Path, counts: Counts) -> Iterator[Figure]:
    """The small mail by LMTP, as a relay hands it over."""
    with serving(folder) as server, sinking(lmtp=True) as sink_port:
        api = Api(server)
        _leg(server.lmtp_port, SMALL, WARM_UP, api, lmtp=True)
        ports = (server.lmtp_port, sink_port)
        rounds = _rounds(SMALL, counts.small_mails, counts, ports, api, lmtp=True)
    yield from _by_lmtp(rounds, counts.small_mails, (0.20, None))


def measure_fleet(folder: Path, counts: Counts) -> Iterator[Figure]:
    """The small mail by LMTP into RabbitMQ, and on from there to an address with limits."""
    with fleet(folder) as started, sinking(lmtp=True) as sink_port:
        _fleet_leg(started, WARM_UP)
        rounds = []
        for _ in range(counts.rounds):
            sink, _ = _leg(sink_port, SMALL, counts.fleet_mails, lmtp=True)
            rounds.append(Round(sink, *_fleet_leg(started, counts.fleet_mails)))
    yield from _by_lmtp(rounds, counts.fleet_mails, (0.08, 0.07))


def _by_lmtp(
    rounds: list[Round], count: int, targets: tuple[float, float | None]
) -> Iterator[Figure]:
    accepted, visible = ([each.accepted for each in rounds], [each.visible for each in rounds])
    yield _figure("accepted by LMTP, 6 kB", accepted, rounds, count, targets[0])
    yield _figure("visible by LMTP, 6 kB", visible, rounds, count, targets[1])


def start_source(
    port: int,
    mail: Path,
    count: int,
    *,
    lmtp: bool = False,
    recipient: str = "bench@example.net",
    sessions: int = SESSIONS,
) -> subprocess.Popen[bytes]:
    """Starts Postfix's `smtp-source`: kept connections, as fast as it is taken."""
    command: list[object] = ["smtp-source", *(["-L"] if lmtp else [])]
    command += ["-d", "-s", sessions, "-m", count, "-F", mail]
    command += ["-f", "bench@example.org", "-t", recipient, f"127.0.0.1:{port}"]
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
    rounds = _rounds(mail, count, counts, (server.smtp_port, sink_port), api)
    accepted, visible = targets
    yield _figure(f"accepted, {size}", [each.accepted for each in rounds], rounds, count, accepted)
    yield _figure(f"visible, {size}", [each.visible for each in rounds], rounds, count, visible)


def _rounds(
    mail: Path,
    count: int,
    counts: Counts,
    ports: tuple[int, int],
    api: Api,
    *,
    lmtp: bool = False,
) -> list[Round]:
    """Ask server and sink in turn; `ports` are the server's and the sink's."""
    server_port, sink_port = ports
    rounds = []
    for _ in range(counts.rounds):
        sink, _ = _leg(sink_port, mail, count, lmtp=lmtp)
        # The server's leg ends when all is visible: a backlog would slow the sink's next leg.
        accepted, visible = _leg(server_port, mail, count, api, lmtp=lmtp)
        rounds.append(Round(sink, accepted, visible))
    return rounds


def _figure(
    name: str, rates: list[float], rounds: list[Round], count: int, target: float | None
) -> Figure:
    """Put the median of the server's rates over that of the sink's."""
    rate, sink = median(rates), median(each.sink for each in rounds)
    how = f"{rate:,.0f}/s of {sink:,.0f}/s; median of rounds of {count:,}: {len(rounds)}"
    wanted = None if target is None else at_least(target)
    return Figure(name, rate / sink, "ratio", wanted, how)


def _leg(
    port: int, mail: Path, count: int, api: Api | None = None, *, lmtp: bool = False
) -> tuple[float, float]:
    """Mails a second until the last acknowledgement, and until the API counts them all."""
    before = api.count() if api else 0
    begin = time.monotonic()
    finish(start_source(port, mail, count, lmtp=lmtp))
    accepted = time.monotonic()
    if api:
        api.wait_for(before + count)
    visible = time.monotonic()
    return count / (accepted - begin), count / (visible - begin)


def _fleet_leg(started: Fleet, count: int) -> tuple[float, float]:
    """As `_leg`, through the door of a fleet."""
    before = started.stored()
    begin = time.monotonic()
    source = start_source(
        started.lmtp_port, SMALL, count, lmtp=True, recipient=started.customer.address
    )
    finish(source)
    accepted = time.monotonic()
    visible = wait_for(started.stored, before + count)
    return count / (accepted - begin), count / (visible - begin)
