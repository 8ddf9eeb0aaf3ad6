"""The production shape: one process of each role, on real servers that the bench starts itself.

The servers are the bench's own and new, so that what they have to do is the bench's alone. They lie
under `/var/tmp`, and end with the block, as the processes do.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import fleet as fleets
import services
from bench.api import Api
from bench.customers import ROOMY, Customer, signed_up
from processes import cpu_seconds

_SERVERS = ("mysql", "redis", "rabbitmq", "mongodb")


@dataclass(frozen=True, slots=True)
class _Door:
    http_port: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running fleet, and a customer in it."""

    processes: fleets.Fleet
    servers: services.Instance
    customer: Customer

    @property
    def lmtp_port(self) -> int:
        """Where the ingest takes mail from a relay."""
        return _port(self._one("ingest").lmtp)

    @property
    def policy_port(self) -> int:
        """Where the policy daemon is asked."""
        return _port(self._one("policy").policy)

    def stored(self) -> int:
        """How many mails have become visible to the customer."""
        return self.customer.api.count()

    def cpu_seconds(self) -> Mapping[str, float]:
        """How long ingest, worker and each of the servers have worked so far."""
        roles = {role: self._one(role).pid for role in ("ingest", "worker")}
        pids = roles | {name: self.servers.pid(name) for name in _SERVERS}
        return {name: cpu_seconds(pid) for name, pid in pids.items()}

    def _one(self, role: str) -> fleets.Process:
        (process,) = self.processes.of(role)
        return process


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Starts servers and processes, waits until all are ready, stops them at the end."""
    with services.running(*_SERVERS) as servers:
        given = servers.variables()
        processes = fleets.Fleet(folder, given)
        for small in ("WORKERS", "DB_CONNECTIONS"):  # a test's fleet is; this one is as shipped
            del processes.settings[small]
        processes.migrate()
        _raise_the_tier(given)
        try:
            processes.start(api=1, ingest=1, policy=1, worker=1)
            (api,) = processes.of("api")
            door = _Door(_port(api.listen["http"]))
            yield Fleet(processes, servers, signed_up(Api(door, processes.token)))
        finally:
            processes.close()


def _raise_the_tier(given: Mapping[str, str]) -> None:
    with closing(services.connect_mysql(given)) as rows, rows.cursor() as cursor:
        if cursor.execute("UPDATE tiers SET limits = %s WHERE name = 'free'", (ROOMY,)) != 1:
            raise RuntimeError("there is no tier `free`")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
