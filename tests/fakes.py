"""Builders of valid things; a test changes only what it is about. No mocks live here."""

import dataclasses
import secrets
import time
from typing import Any

from mailtape.domain.envelope import Delivery, Envelope, Protocol
from mailtape.domain.ids import IngestId, OrganisationId, new_id


def an_organisation_id() -> OrganisationId:
    return OrganisationId(secrets.token_bytes(16))


def an_ingest_id() -> IngestId:
    return IngestId(new_id(time.time_ns() // 1_000_000))


def a_delivery(
    recipient: str = "qa@mail.example.com", organisation_id: OrganisationId | None = None
) -> Delivery:
    local, _, domain = recipient.partition("@")
    return Delivery(
        recipient=recipient,
        mailbox=f"{local.partition('+')[0]}@{domain}",
        organisation_id=organisation_id or an_organisation_id(),
    )


def an_envelope(raw: bytes = b"Subject: a\r\n\r\nb\r\n", **changes: Any) -> Envelope:
    now_us = time.time_ns() // 1000
    return dataclasses.replace(
        Envelope(
            ingest_id=IngestId(new_id(now_us // 1000)),
            accepted_us=now_us,
            protocol=Protocol.SMTP,
            mail_from="shop@example.org",
            deliveries=(a_delivery(),),
            size=len(raw),
            client_address="127.0.0.1",
            helo="client.example.org",
        ),
        **changes,
    )
