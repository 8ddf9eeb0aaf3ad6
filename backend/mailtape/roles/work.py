"""The role that understands and stores mail: a consumer and its parsing processes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from mailtape.mime.limits import Limits
from mailtape.opening import Stores
from mailtape.settings import Settings
from mailtape_workers.consumer import Consumer, ConsumerSettings
from mailtape_workers.parsers import ParserSettings


@asynccontextmanager
async def consuming(
    settings: Settings, stores: Stores, clock: Callable[[], datetime]
) -> AsyncIterator[Consumer]:
    """Take mail from the queue for as long as the context lasts."""
    consumer = Consumer(
        stores.queue,
        stores.bodies,
        stores.database,
        stores.wakeups,
        ConsumerSettings(
            workers=settings.worker_processes,
            tries=settings.worker_tries,
            retry_seconds=settings.worker_retry_seconds,
            parser=ParserSettings(
                deadline_seconds=settings.worker_deadline_seconds, limits=_parsing(settings)
            ),
        ),
        clock,
        stores.arriving,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def _parsing(settings: Settings) -> Limits:
    # Plain integers: the limits go to another process, which has never heard of sizes.
    return Limits(
        header_bytes=int(settings.mime_max_header_bytes),
        header_count=settings.mime_max_header_fields,
        document_bytes=int(settings.mime_max_document_bytes),
        depth=settings.mime_max_depth,
        parts=settings.mime_max_parts,
        attachments=settings.mime_max_attachments,
        decoded_bytes=int(settings.mime_max_decoded_bytes),
        text_chars=settings.mime_max_text_chars,
        html_chars=settings.mime_max_html_chars,
        html_depth=settings.mime_max_html_depth,
        search_chars=settings.mime_max_search_chars,
    )
