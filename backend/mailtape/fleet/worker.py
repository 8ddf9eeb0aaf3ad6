"""The process that understands and stores mail, and does what is due again and again."""

from contextlib import AsyncExitStack

from mailtape.data_folder import DataFolder
from mailtape.fleet.living import looked_after, now, until
from mailtape.opening import opened
from mailtape.roles import jobs, process, upkeep, work
from mailtape.rows import organisations
from mailtape.services import health
from mailtape.services.tokens import Keys
from mailtape.settings import Settings


async def live(settings: Settings, folder: DataFolder, keys: Keys) -> None:  # noqa: ARG001 - as all
    """Understand and store mail, and do what is due again and again."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        local = await stores.database.read(organisations.find_local)
        await stack.enter_async_context(work.consuming(settings, stores, now))
        of_all_workers = jobs.of_rows(settings, stores, local, now)
        await stack.enter_async_context(
            upkeep.doing(jobs.in_turn(stores.database, of_all_workers, now))
        )
        await looked_after(
            settings,
            stack,
            {
                "rows": health.writing(stores.database),
                "bodies": health.keeping(stores.bodies),
                "queue": health.accepting(stores.queue),
            },
            stores.queue,
        )
        await until(stopped, settings)
