"""The role that takes mail: SMTP from anybody, LMTP from relays that are trusted."""

import socket
from collections.abc import Awaitable, Callable
from datetime import datetime

from mailtape.data_folder import DataFolder
from mailtape.domain.account import Scope
from mailtape.domain.envelope import Protocol
from mailtape.domain.errors import Unauthenticated
from mailtape.ports.queue import Queue
from mailtape.rows.database import Database
from mailtape.services import tokens
from mailtape.services.quota import Quota
from mailtape.services.tokens import Keys
from mailtape.settings import Settings
from mailtape_ingest.handler import MailHandler
from mailtape_ingest.server import Deadlines, Server
from mailtape_ingest.session import Rules
from mailtape_ingest.tls import ensure_self_signed, server_context


def smtp(
    settings: Settings,
    folder: DataFolder,
    keys: Keys,
    database: Database,
    queue: Queue,
    quota: Quota,
    clock: Callable[[], datetime],
) -> Server:
    """Make the door for whoever has mail to send, with STARTTLS and, when it is wanted, AUTH."""
    on_loopback = settings.smtp_listen.on_loopback
    any_credentials = on_loopback and settings.capture and settings.anonymous
    certificate, key = (settings.smtp_tls_cert, settings.smtp_tls_key)
    if certificate is None or key is None:
        folder.make()
        certificate, key = ensure_self_signed(folder.path, socket.gethostname(), clock())
    authenticate = None if any_credentials else _by_token(keys, database, clock)
    return Server(
        MailHandler(queue, quota, authenticate),
        Rules(
            hostname=settings.domain,
            trusted=settings.lmtp_trusted,
            message_octets=settings.smtp_max_message_bytes,
            recipients=settings.smtp_max_recipients,
            tls=True,
            auth_required=not settings.anonymous,
            auth_in_clear=on_loopback,
        ),
        deadlines=_deadlines(settings),
        tls=server_context(certificate, key),
        connections=settings.smtp_max_connections,
        octets_in_flight=settings.smtp_max_bytes_in_flight,
    )


def lmtp(settings: Settings, queue: Queue, quota: Quota) -> Server:
    """Make the door for a relay that has taken mail already and hands it on."""
    return Server(
        MailHandler(queue, quota, None),
        Rules(
            hostname=settings.domain,
            protocol=Protocol.LMTP,
            trusted=settings.lmtp_trusted,
            message_octets=settings.smtp_max_message_bytes,
            recipients=settings.smtp_max_recipients,
        ),
        deadlines=_deadlines(settings),
        connections=settings.smtp_max_connections,
        octets_in_flight=settings.smtp_max_bytes_in_flight,
    )


def _by_token(
    keys: Keys, database: Database, clock: Callable[[], datetime]
) -> Callable[[str, str], Awaitable[bool]]:
    async def authenticate(_user: str, password: str) -> bool:
        try:
            principal = await tokens.authenticate(database, keys.token_salt, password, clock())
        except Unauthenticated:
            return False
        return not principal.scopes.isdisjoint({Scope.MESSAGES_WRITE, Scope.INGEST})

    return authenticate


def _deadlines(settings: Settings) -> Deadlines:
    return Deadlines(
        command=settings.smtp_command_timeout_seconds,
        message=settings.smtp_data_timeout_seconds,
    )
