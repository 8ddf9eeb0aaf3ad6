"""The process that answers Postfix's questions about recipients."""

from contextlib import AsyncExitStack

from mailtape.data_folder import DataFolder
from mailtape.fleet.living import looked_after, now, until
from mailtape.opening import opened
from mailtape.roles import listening, policy, process
from mailtape.roles.judging import judging
from mailtape.services import health
from mailtape.services.tokens import Keys
from mailtape.settings import Settings


async def live(settings: Settings, folder: DataFolder, keys: Keys) -> None:  # noqa: ARG001 - as all
    """Answer Postfix's questions about recipients."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        quota = (await stack.enter_async_context(judging(settings, stores, now))).quota
        server = policy.server(settings, quota)
        await looked_after(settings, stack, {"rows": health.reading(stores.database)})
        addresses = await stack.enter_async_context(
            listening.listening(settings, {"policy": (server, settings.policy_listen)}, shared=True)
        )
        await until(stopped, settings, *(f"{name}://{at}" for name, at in addresses.items()))
