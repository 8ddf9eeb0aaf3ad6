"""One process of the production platform: `mailtape api`, `ingest`, `policy` or `worker`.

Any number of each works on one set of servers; nothing is kept in the process, so each may be
killed, replaced or doubled at any time. Processes of one kind may listen on one address: the kernel
spreads the connections. When everything can be served, `ready` and the addresses are printed. On
SIGTERM a process takes no more, finishes what it has begun, and ends.
"""

from importlib import import_module

import uvloop

from mailtape.background import check_that_all_lasted
from mailtape.data_folder import DataFolder
from mailtape.roles import process
from mailtape.services.tokens import Keys
from mailtape.settings import Settings

ROLES = ("api", "ingest", "policy", "worker")
"""Each is a module of this package with a coroutine `live`."""


def run(role: str, settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Be one process of this role until a signal says otherwise; the schema is this release's.

    Raises:
        OSError: an address cannot be bound.
        Conflict: a server has something of ours that was made otherwise.
        TaskEnded: a fault of the program ended it.
    """
    # By name: only one of them knows the web framework, which takes long to load.
    live = import_module(f"mailtape.fleet.{role}").live
    uvloop.run(live(process.with_open_files(settings), folder, keys))
    check_that_all_lasted()
