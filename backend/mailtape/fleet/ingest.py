"""The process that takes mail, by SMTP and from a relay by LMTP."""

from contextlib import AsyncExitStack

from mailtape.data_folder import DataFolder
from mailtape.fleet.living import looked_after, now, until
from mailtape.opening import opened
from mailtape.roles import listening, mail, process
from mailtape.roles.judging import judging
from mailtape.roles.listening import Door
from mailtape.services import health
from mailtape.services.tokens import Keys
from mailtape.settings import HostPort, Settings


async def live(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Take mail by SMTP and, where LMTP_LISTEN says, from a relay by LMTP."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        quota = (await stack.enter_async_context(judging(settings, stores, now))).quota
        doors: dict[str, tuple[Door, HostPort]] = {
            "smtp": (
                mail.smtp(settings, folder, keys, stores.database, stores.queue, quota, now),
                settings.smtp_listen,
            )
        }
        if settings.lmtp_listen is not None:
            doors["lmtp"] = (mail.lmtp(settings, stores.queue, quota), settings.lmtp_listen)
        await looked_after(
            settings,
            stack,
            {
                "rows": health.reading(stores.database),
                "queue": health.accepting(stores.queue),
            },
            stores.queue,
        )
        addresses = await stack.enter_async_context(
            listening.listening(settings, doors, shared=True)
        )
        await until(stopped, settings, *(f"{name}://{at}" for name, at in addresses.items()))
