"""The process that answers over HTTP, and takes mail at `POST /ingest`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mailtape.api.deps import Parts
from mailtape.api.main import create_app
from mailtape.api.routes import operation
from mailtape.data_folder import DataFolder
from mailtape.fleet.living import looked_after, now, until
from mailtape.opening import opened
from mailtape.roles import http as listeners
from mailtape.roles import jobs, listening, process, upkeep, web
from mailtape.roles.judging import judging
from mailtape.services.tokens import Keys
from mailtape.settings import HostPort, Settings


async def live(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Answer over HTTP, and take mail at `POST /ingest`."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        bound = stack.enter_context(listening.bind(settings.http_listen, shared=True))
        http = HostPort(settings.http_listen.host, bound.getsockname()[1])
        parts = await stack.enter_async_context(api_parts(settings, folder, keys, http))
        await looked_after(settings, stack, operation.questions(parts), parts.queue)
        await stack.enter_async_context(
            listeners.serving(settings, create_app(parts), bound, parts.wakeups.close)
        )
        await until(stopped, settings, f"http://{http}")


@asynccontextmanager
async def api_parts(
    settings: Settings, folder: DataFolder, keys: Keys, http: HostPort
) -> AsyncIterator[Parts]:
    """Open what the API stands on; `http` is where it is reached when nothing else is set."""
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        judged = await stack.enter_async_context(judging(settings, stores, now))
        parts = web.parts(settings, keys, http, stores, judged.recipients, judged.quota, now)
        stack.callback(parts.passwords.close)
        counting = jobs.of_calls(stores, parts.calls)
        await stack.enter_async_context(upkeep.doing([counting], at_the_end=[counting.run]))
        yield parts
